//! Enums that are a list of names.

/// Writes an enum by its names. With what it is called and `or` before the last name it is read from them
/// too, and `ALL` lists it.
macro_rules! names {
    ($kind:ident { $($variant:ident $name:literal),+ }) => {
        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $($kind::$variant => $name),+ })
            }
        }
    };
    ($kind:ident $what:literal {
        $first:ident $first_name:literal $(, $variant:ident $name:literal)* or $last:ident $last_name:literal
    }) => {
        $crate::base::names!($kind { $first $first_name, $($variant $name,)* $last $last_name });

        impl $kind {
            /// All of them, in this order.
            pub const ALL: &'static [$kind] = &[$kind::$first, $($kind::$variant,)* $kind::$last];
        }

        impl std::str::FromStr for $kind {
            type Err = $crate::base::Error;

            fn from_str(text: &str) -> $crate::base::Result<Self> {
                let expected = concat!($first_name, $(", ", $name,)* " or ", $last_name);
                let known = Self::ALL.iter().find(|known| known.to_string() == text);
                known.copied().ok_or_else(|| $crate::base::Error::bad_value($what, expected, text))
            }
        }
    };
}
pub(crate) use names;

#[cfg(test)]
mod tests {
    use crate::backend::BackendChoice;
    use crate::base::RejectionClass;
    use crate::image::preprocess::{ChannelOrder, JpegScale, Resample};
    use crate::model::{Normalise, Precision};

    fn check<T>(all: &[T], others: &[&str])
    where
        T: std::str::FromStr<Err = crate::base::Error> + std::fmt::Display + std::fmt::Debug + PartialEq,
    {
        for value in all {
            assert_eq!(value.to_string().parse::<T>().unwrap(), *value);
        }
        for other in others {
            assert!(other.parse::<T>().is_err(), "{other}");
        }
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        check(BackendChoice::ALL, &["cuda", "Auto"]);
        check(RejectionClass::ALL, &["", "decode "]);
        check(ChannelOrder::ALL, &["rbg"]);
        check(JpegScale::ALL, &["exactly"]);
        check(Resample::ALL, &["cubic"]);
        check(Normalise::ALL, &["l1"]);
        check(Precision::ALL, &["f16"]);
        let error = "f16".parse::<Precision>().unwrap_err().to_string();
        assert_eq!(error, "precision: expected full, fp16 or bf16, found \"f16\"");
        let error = "x".parse::<ChannelOrder>().unwrap_err().to_string();
        assert_eq!(error, "channel order: expected rgb or bgr, found \"x\"");
    }
}
