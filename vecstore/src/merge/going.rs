//! Merged inputs that are being removed: files that no view lists any more, and that are there all the same.

use crate::base::sync::Mutex;
use crate::segment::SegmentName;
use crate::state::View;

/// How many inputs of this handle's last merge are still to be removed. They count as files, or appends would
/// go on as soon as the merge is listed, and meet a directory that is as full as before.
#[derive(Debug, Default)]
pub(crate) struct Going(Mutex<Option<(SegmentName, usize)>>);

impl Going {
    /// Those that what a view lists has taken the place of. A view from before the merge lists the inputs themselves.
    pub fn beside(&self, view: &View) -> usize {
        let Some((output, left)) = *self.0.lock() else { return 0 };
        let at = view.segments.partition_point(|live| live.segment.name().last < output.last);
        let is_merged = view.segments.get(at).is_some_and(|live| live.segment.name().first <= output.first);
        if is_merged { left } else { 0 }
    }

    /// Those that are neither listed nor removed yet.
    pub fn left(&self) -> usize {
        self.0.lock().map_or(0, |(_, left)| left)
    }

    /// Puts the output in place of so many inputs, and calls `remove` for each of those that nothing pins. They count from
    /// before the output is listed: a view that lists it may be there before it is known what is pinned.
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
