//! Whether the three services agree on an order. Pure.

use serde::Serialize;

/// What three states of one order say together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is over, and all three say so.
    Agree,
    /// Its next step is still to come.
    UnderWay,
    /// A step failed, or somebody gave up: what was done is being undone.
    BeingUndone,
    /// Never, if the services do what they should.
    Disagree,
}

/// Of an order, its payment and its reservation; `none` where there is no row. The order has to be read first: the
/// others may be ahead of it, and never behind its end.
pub fn verdict(order: &str, payment: &str, reservation: &str) -> Verdict {
    match (order, payment, reservation) {
        ("CONFIRMED", "TAKEN", "SOLD")
        | ("CANCELLED", "none", "REJECTED")
        | ("CANCELLED", "REFUSED" | "VOIDED" | "REFUNDED", "RELEASED") => Verdict::Agree,
        // the stock service has not heard of it yet
        ("CONFIRMED", "TAKEN", "RESERVED") => Verdict::UnderWay,
        ("CONFIRMED" | "CANCELLED", ..) => Verdict::Disagree,
        ("CANCELLING", ..) | (_, "REFUSED" | "VOIDED" | "REFUNDED", _) | (_, _, "REJECTED" | "RELEASED") => {
            Verdict::BeingUndone
        }
        _ => Verdict::UnderWay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_states_make_one_verdict() {
        for (order, payment, reservation, expected) in [
            ("PENDING", "none", "none", Verdict::UnderWay),
            ("PENDING", "TAKEN", "RESERVED", Verdict::UnderWay),
            ("CONFIRMED", "TAKEN", "RESERVED", Verdict::UnderWay),
            ("CONFIRMED", "TAKEN", "SOLD", Verdict::Agree),
            ("PENDING", "none", "REJECTED", Verdict::BeingUndone),
            ("PENDING", "REFUSED", "RESERVED", Verdict::BeingUndone),
            ("CANCELLING", "TAKEN", "RESERVED", Verdict::BeingUndone),
            ("CANCELLED", "none", "REJECTED", Verdict::Agree),
            ("CANCELLED", "REFUNDED", "RELEASED", Verdict::Agree),
            ("CANCELLED", "VOIDED", "RELEASED", Verdict::Agree),
            ("CANCELLED", "TAKEN", "RELEASED", Verdict::Disagree),
            ("CANCELLED", "REFUNDED", "SOLD", Verdict::Disagree),
            ("CONFIRMED", "REFUSED", "SOLD", Verdict::Disagree),
        ] {
            assert_eq!(verdict(order, payment, reservation), expected, "{order} {payment} {reservation}");
        }
    }
}
