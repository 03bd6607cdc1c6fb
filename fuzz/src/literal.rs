//! Python literals as far as NumPy's headers need them: what `ast.literal_eval` makes of a dictionary of
//! texts, whole numbers, truth values and tuples. Written after Python's grammar, for the tests alone.

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub enum Literal {
    Str(String),
    Int(u64),
    Bool(bool),
    Tuple(Vec<Literal>),
    /// The last of several values of one key counts.
    Dict(Vec<(String, Literal)>),
}

/// Deepest nesting: deeper brackets are refused, so that a hostile input cannot exhaust the stack.
const DEPTH: usize = 32;

/// Reads a text that is one literal and nothing else; `None` if Python or this reader refuses it.
pub fn parse(text: &str) -> Option<Literal> {
    // Python strips blanks before an expression. Within the brackets of a dictionary, lines may end anywhere.
    let mut rest = text.trim_start_matches([' ', '\t']);
    let value = value(&mut rest, 0)?;
    rest.trim_end_matches([' ', '\t', '\n', '\r', '\x0C']).is_empty().then_some(value)
}

fn blanks(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0C']);
}

/// Takes a sign and the blanks before it, if the sign comes next.
fn take(rest: &mut &str, sign: char) -> bool {
    blanks(rest);
    let Some(after) = rest.strip_prefix(sign) else { return false };
    *rest = after;
    true
}

fn value(rest: &mut &str, depth: usize) -> Option<Literal> {
    if depth > DEPTH {
        return None;
    }
    blanks(rest);
    match rest.chars().next()? {
        '{' => dict(rest, depth),
        '(' => tuple(rest, depth),
        '\'' | '"' => text(rest).map(Literal::Str),
        '0'..='9' => number(rest).map(Literal::Int),
        _ => {
            let (value, after) = [("True", true), ("False", false)]
                .iter()
                .find_map(|(word, value)| Some((*value, rest.strip_prefix(word)?)))?;
            let goes_on = after.chars().next().is_some_and(|next| next == '_' || next.is_alphanumeric());
            *rest = after;
            (!goes_on).then_some(Literal::Bool(value))
        }
    }
}

fn dict(rest: &mut &str, depth: usize) -> Option<Literal> {
    take(rest, '{');
    let mut entries: Vec<(String, Literal)> = Vec::new();
    loop {
        if take(rest, '}') {
            return Some(Literal::Dict(entries));
        }
        blanks(rest);
        let name = text(rest)?;
        if !take(rest, ':') {
            return None;
        }
        let value = value(rest, depth + 1)?;
        entries.retain(|(known, _)| *known != name);
        entries.push((name, value));
        if !take(rest, ',') {
            return take(rest, '}').then_some(Literal::Dict(entries));
        }
    }
}

/// A tuple, or a value in brackets.
fn tuple(rest: &mut &str, depth: usize) -> Option<Literal> {
    take(rest, '(');
    let mut values = Vec::new();
    loop {
        if take(rest, ')') {
            return Some(Literal::Tuple(values));
        }
        values.push(value(rest, depth + 1)?);
        if take(rest, ',') {
            continue;
        }
        if !take(rest, ')') {
            return None;
        }
        // Without a comma, one value in brackets is that value.
        return if values.len() == 1 { values.pop() } else { Some(Literal::Tuple(values)) };
    }
}

/// A text without escapes. NumPy writes none, and refusing a text that has some errs on the safe side.
fn text(rest: &mut &str) -> Option<String> {
    let quote = rest.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let (text, after) = rest.get(1..)?.split_once(quote)?;
    *rest = after;
    // Three quotes begin a text of several lines.
    let is_long = text.is_empty() && after.starts_with(quote);
    let is_odd = text.contains(['\\', '\n', '\r', '\0']);
    (!is_long && !is_odd).then(|| text.to_owned())
}

/// A whole number in decimal digits.
fn number(rest: &mut &str) -> Option<u64> {
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    // Python refuses 007 and 1x. 1.5 and 1e3 are no whole numbers, and NumPy never writes 0x10 or 1_000.
    let goes_on = after.starts_with(|next: char| next == '_' || next == '.' || next.is_alphanumeric());
    if goes_on || digits.len() > 1 && digits.starts_with('0') && digits.contains(|digit| digit != '0') {
        return None;
    }
    *rest = after;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values as Python 3 reads them, for literals that this reader accepts.
    #[test]
    fn literals_are_read_as_python_reads_them() {
        let texts =
            |all: &[&str]| Literal::Tuple(all.iter().map(|text| Literal::Str((*text).into())).collect());
        let good = [
            ("1", Literal::Int(1)),
            ("(1)", Literal::Int(1)),
            ("(1,)", Literal::Tuple(vec![Literal::Int(1)])),
            ("()", Literal::Tuple(vec![])),
            ("( 1 , 2 ,\n)", Literal::Tuple(vec![Literal::Int(1), Literal::Int(2)])),
            ("('a', \"b'\", '')", texts(&["a", "b'", ""])),
            ("{'a': True, 'a': False, }\n", Literal::Dict(vec![("a".into(), Literal::Bool(false))])),
            ("{}", Literal::Dict(vec![])),
            ("00", Literal::Int(0)),
        ];
        for (text, expected) in good {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        let bad = [
            "",
            "(",
            "(,)",
            "(1 2)",
            "{1: 2}x",
            "{'a'}",
            "{'a': }",
            "{,}",
            "True1",
            "true",
            "007",
            "1x",
            "'a",
            "1.5",
            "-",
            "{'a': 1,, }",
            "18446744073709551616",
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"(".repeat(100_000)), None);
    }
}
