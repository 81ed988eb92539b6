//! The order in which people number files: `shard-9` before `shard-10`.

use std::cmp::Ordering;

/// Compares paths component by component, and in a component runs of digits by their value. Equal
/// in value, the shorter run goes first, so the order is total.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    a.split('/')
        .map(Some)
        .chain([None])
        .zip(b.split('/').map(Some).chain([None]))
        .map(|(a, b)| match (a, b) {
            (Some(a), Some(b)) => component(a.as_bytes(), b.as_bytes()),
            (a, b) => a.cmp(&b),
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
        .then_with(|| a.cmp(b))
}

fn component(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        if digits_a > 0 && digits_b > 0 {
            let order = number(&a[..digits_a], &b[..digits_b]);
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((first_a, rest_a)), Some((first_b, rest_b))) if first_a == first_b => {
                (a, b) = (rest_a, rest_b);
            }
            (first_a, first_b) => return first_a.map(|it| it.0).cmp(&first_b.map(|it| it.0)),
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Of any length: a number in a file name need not fit into one of ours.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let zeros = |text: &[u8]| text.iter().take_while(|&&digit| digit == b'0').count();
    let (value_a, value_b) = (&a[zeros(a)..], &b[zeros(b)..]);
    value_a.len().cmp(&value_b.len()).then_with(|| value_a.cmp(value_b)).then(a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_stand_as_people_number_them() {
        let wanted = [
            "a",
            "a-1",
            "a-2",
            "a-02",
            "a-9.tar",
            "a-10",
            "a-010",
            "a-18446744073709551616",
            "a/1/b",
            "a/2",
            "a/10/a",
            "a.tar",
            "b",
        ];
        let mut found = wanted;
        found.sort_by(|a, b| compare(b, a));
        found.sort_by(|a, b| compare(a, b));
        // A folder stands where its name does, before longer names.
        let position = |name: &str| found.iter().position(|found| *found == name).unwrap();
        for pair in ["a-1", "a-2", "a-02", "a-9.tar", "a-10", "a-010"].windows(2) {
            assert!(position(pair[0]) < position(pair[1]), "{pair:?}");
        }
        for pair in ["a/1/b", "a/2", "a/10/a"].windows(2) {
            assert!(position(pair[0]) < position(pair[1]), "{pair:?}");
        }
        assert!(position("a/10/a") < position("a-1"));
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(a in "[a0-9/]{0,6}", b in "[a0-9/]{0,6}", c in "[a0-9/]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b).is_eq(), a == b);
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
