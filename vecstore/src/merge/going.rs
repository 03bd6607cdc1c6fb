//! Merge inputs waiting to be deleted: no view lists them, but they still exist on disk.

use crate::base::sync::Mutex;
use crate::segment::SegmentName;
use crate::state::View;

/// Number of inputs of this handle's last merge that are still to be removed. They count as files: otherwise
/// appends would go on as soon as the output is listed, in a directory as full as before.
#[derive(Debug, Default)]
pub(crate) struct Going(Mutex<Option<(SegmentName, usize)>>);

impl Going {
    /// Inputs still to be removed if the view lists the output, else 0: a view from before the merge lists
    /// the inputs themselves.
    pub fn beside(&self, view: &View) -> usize {
        let Some((output, left)) = *self.0.lock() else { return 0 };
        let at = view.segments.partition_point(|live| live.segment.name().last < output.last);
        let is_merged = view.segments.get(at).is_some_and(|live| live.segment.name().first <= output.first);
        if is_merged { left } else { 0 }
    }

    /// Number of inputs that are neither listed nor removed yet.
    pub fn left(&self) -> usize {
        self.0.lock().map_or(0, |(_, left)| left)
    }

    /// Lists the output in place of `inputs` inputs by calling `swap`, then calls `remove` for each input
    /// that `swap` returns as free. All inputs count from before the swap: a view with the output may appear
    /// before it is known which inputs are free.
    pub fn replaced<E>(
        &self,
        output: SegmentName,
        inputs: usize,
        swap: impl FnOnce() -> Result<Vec<SegmentName>, E>,
        remove: impl Fn(&SegmentName),
    ) -> Result<(), E> {
        *self.0.lock() = Some((output, inputs));
        let swapped = swap();
        let inputs = swapped.as_deref().unwrap_or_default();
        for (number, input) in inputs.iter().enumerate() {
            *self.0.lock() = Some((output, inputs.len() - number));
            remove(input);
        }
        *self.0.lock() = None;
        swapped.map(drop)
    }
}
