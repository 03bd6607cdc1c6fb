//! A model of a store in memory, for comparison with the state that the real code reads.

use std::collections::BTreeMap;

use vecstore::{Appended, Kind, OnDuplicate, Snapshot};

/// Elements per vector of the stores in these tests.
pub const DIM: usize = 2;

/// The entry of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Bits of the rows' elements, and the payload.
    Rows(Vec<u32>, Vec<u8>),
    Empty(Vec<u8>),
    /// The reason; its bytes are the payload, too.
    Rejected(String),
}

impl Value {
    /// The value for a number: mostly one row, sometimes several, none, or a rejection.
    pub fn number(number: u32) -> Self {
        match number % 8 {
            6 => Value::Empty(number.to_le_bytes().to_vec()),
            7 => Value::Rejected(format!("reason {number}")),
            kind => {
                let rows = if kind == 5 { 3 } else { 1 };
                let elements = (0..rows * DIM as u32).map(|at| ((number * 16 + at) as f32 + 0.5).to_bits());
                let payload = if kind == 4 { vec![number as u8; 5] } else { Vec::new() };
                Value::Rows(elements.collect(), payload)
            }
        }
    }
}

/// A change that a store makes as a whole or not at all.
#[derive(Clone, Debug)]
pub enum Change {
    Create,
    /// Entries; `None` deletes a key.
    Append(OnDuplicate, Vec<(String, Option<Value>)>),
    Setting(String, String),
    Fingerprint(u8),
}

/// The state of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct State {
    pub exists: bool,
    pub commits: u64,
    pub entries: BTreeMap<String, Value>,
    pub settings: BTreeMap<String, String>,
    pub fingerprint: Option<u8>,
}

impl State {
    /// The state after a change.
    pub fn after(&self, change: &Change) -> State {
        let mut state = self.clone();
        match change {
            Change::Create => state.exists = true,
            // A store that does not exist does not change.
            _ if !self.exists => {}
            Change::Setting(name, value) => {
                state.settings.insert(name.clone(), value.clone());
            }
            Change::Fingerprint(id) => state.fingerprint = Some(*id),
            Change::Append(policy, entries) => {
                let present = |key: &String| self.entries.contains_key(key);
                let refused = *policy == OnDuplicate::Error
                    && entries.iter().any(|(key, value)| value.is_some() && present(key));
                let mut written = false;
                for (key, value) in entries.iter().filter(|_| !refused) {
                    match value {
                        Some(_) if present(key) && *policy == OnDuplicate::Skip => {}
                        Some(value) => {
                            state.entries.insert(key.clone(), value.clone());
                            written = true;
                        }
                        None => written |= state.entries.remove(key).is_some(),
                    }
                }
                state.commits += u64::from(written);
            }
        }
        state
    }

    /// What an append must return; `None` if it must be refused because of duplicate keys.
    pub fn appended(&self, policy: OnDuplicate, entries: &[(String, Option<Value>)]) -> Option<Appended> {
        let present = |key: &String| self.entries.contains_key(key);
        if policy == OnDuplicate::Error && self.duplicates(entries) > 0 {
            return None;
        }
        let mut said = Appended::default();
        for (key, value) in entries {
            match value {
                Some(_) if present(key) && policy == OnDuplicate::Skip => {
                    said.skipped += 1;
                    continue;
                }
                Some(Value::Rows(bits, _)) => said.rows += (bits.len() / DIM) as u64,
                Some(_) => {}
                None if present(key) => said.deleted += 1,
                None => {
                    said.skipped += 1;
                    continue;
                }
            }
            said.entries += u64::from(value.is_some());
            said.replaced += u64::from(value.is_some() && present(key));
        }
        let after = self.after(&Change::Append(policy, entries.to_vec()));
        said.commit = (after.commits > self.commits).then_some(after.commits);
        Some(said)
    }

    /// How many of the entries, deletions excepted, have keys that are stored already.
    pub fn duplicates(&self, entries: &[(String, Option<Value>)]) -> usize {
        entries.iter().filter(|(key, value)| value.is_some() && self.entries.contains_key(key)).count()
    }

    /// Reads the state of the real store in every way that a reader has; all answers must agree.
    pub fn read(snapshot: &Snapshot) -> Result<State, String> {
        let mut state = State {
            exists: true,
            commits: snapshot.last_commit(),
            settings: snapshot.settings().clone(),
            fingerprint: snapshot.fingerprint().map(|fingerprint| fingerprint.id()[0]),
            ..State::default()
        };
        let (mut rows, mut keys) = (0, Vec::new());
        for entry in snapshot.iter() {
            let entry = entry.map_err(|error| format!("reading an entry: {error}"))?;
            let key = String::from_utf8(entry.key().to_vec()).map_err(|error| error.to_string())?;
            let value = match entry.kind() {
                Kind::Rows => {
                    let elements: &[f32] = entry.rows().map_err(|error| error.to_string())?;
                    rows += entry.row_count() as u64;
                    let first = snapshot.row_at(entry.address()).map_err(|error| error.to_string())?;
                    if first.as_deref() != elements.get(..DIM) {
                        return Err(format!("{key}: its address leads to {first:?}"));
                    }
                    Value::Rows(elements.iter().map(|x| x.to_bits()).collect(), entry.payload().to_vec())
                }
                Kind::Empty => Value::Empty(entry.payload().to_vec()),
                Kind::Rejected => {
                    let reason = entry.reason().unwrap_or_default();
                    if entry.payload() != reason.as_bytes() {
                        return Err(format!("{key}: rejected for \"{reason}\", with another payload"));
                    }
                    Value::Rejected(reason.to_owned())
                }
                other => return Err(format!("{key}: an entry of kind {other}")),
            };
            match snapshot.get(&key) {
                Ok(Some(found)) if found.address() == entry.address() => {}
                other => return Err(format!("{key}: iterated at {}, got {other:?}", entry.address())),
            }
            if state.entries.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is there twice"));
            }
            keys.push(key);
        }
        let totals = snapshot.totals();
        let by_kind = totals.with_rows + totals.empty + totals.rejected;
        if [totals.entries, by_kind] != [keys.len() as u64; 2] || totals.rows != rows {
            return Err(format!("totals say {totals:?}, there are {} entries and {rows} rows", keys.len()));
        }
        let hits = snapshot.search(&[1.0; DIM], usize::MAX).map_err(|error| error.to_string())?;
        if hits.len() as u64 != rows {
            return Err(format!("a search sees {} of {rows} rows", hits.len()));
        }
        keys.push("never stored".to_owned());
        let missing = snapshot.missing(&keys).map_err(|error| error.to_string())?;
        if missing != [keys.len() - 1] {
            return Err(format!("of the keys just read these are missing: {missing:?}"));
        }
        Ok(state)
    }
}
