//! Merges the sorted tables of several files into one sequence.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The next element of each table, with the table's number and the element's position. Elements are fetched
/// when they are due.
#[derive(Debug)]
pub(crate) struct Sorted<T>(BinaryHeap<Reverse<(T, usize, usize)>>);

impl<T: Ord> Sorted<T> {
    /// Begins with the first element of each table. `at` fetches the element of a table at a position; `None`
    /// is the table's end.
    pub fn of<E>(tables: usize, mut at: impl FnMut(usize, usize) -> Result<Option<T>, E>) -> Result<Self, E> {
        let mut first = |table| Ok(at(table, 0)?.map(|element| Reverse((element, table, 0))));
        (0..tables).filter_map(|table| first(table).transpose()).collect::<Result<_, E>>().map(Sorted)
    }

    /// The least remaining element, its table and its position there. Among equal elements the first table's
    /// comes first.
    pub fn next<E>(
        &mut self,
        mut at: impl FnMut(usize, usize) -> Result<Option<T>, E>,
    ) -> Result<Option<(T, usize, usize)>, E> {
        let Some(Reverse((element, table, position))) = self.0.pop() else { return Ok(None) };
        self.0.extend(at(table, position + 1)?.map(|next| Reverse((next, table, position + 1))));
        Ok(Some((element, table, position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn all_elements_come_in_order() {
        let tables: [&[u32]; 4] = [&[1, 4, 4, 9], &[], &[0, 4], &[7]];
        let at = |table: usize, position: usize| Ok::<_, Infallible>(tables[table].get(position).copied());
        let mut all = Sorted::of(tables.len(), at).unwrap();
        let found: Vec<_> = std::iter::from_fn(|| all.next(at).unwrap()).collect();
        let expected = [(0, 2, 0), (1, 0, 0), (4, 0, 1), (4, 0, 2), (4, 2, 1), (7, 3, 0), (9, 0, 3)];
        assert_eq!(found, expected);
    }

    #[test]
    fn errors_of_fetching_are_returned() {
        assert_eq!(
            Sorted::<u32>::of(2, |table, _| if table == 1 { Err("x") } else { Ok(None) }).unwrap_err(),
            "x"
        );
        let mut one = Sorted::of(1, |_, _| Ok::<_, &str>(Some(1))).unwrap();
        assert_eq!(one.next(|_, _| Err("y")), Err("y"));
    }
}
