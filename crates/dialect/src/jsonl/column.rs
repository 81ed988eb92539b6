//! What the values of a key are, over many rows.
//!
//! Kinds grow only as far as the values demand, and what a value reads as never depends on its
//! neighbours:
//!
//! ```text
//! integer ── float ─────────┐
//!    └─ integers ── floats ─┤     boolean ── booleans ─┐
//!                           └──────────── text ────────┘
//! ```

use forebay_types::{Dtype, FieldKind};

use super::scan::Shape;

/// The values of a key so far.
#[derive(Debug)]
pub(crate) struct Column {
    shapes: Shapes,
    /// The rows that have it, and the number of the last, from 1.
    rows: u64,
    last_row: u64,
    /// What it is there: of two members of one key the last holds.
    last: Shape,
}

/// Which shapes there were.
#[derive(Clone, Copy, Debug, Default)]
struct Shapes {
    integer: bool,
    float: bool,
    boolean: bool,
    vector: bool,
    text: bool,
}

impl Column {
    /// A column that first appears in row `row`.
    pub(crate) fn new(row: u64, shape: Shape) -> Self {
        Self { shapes: Shapes::default(), rows: 0, last_row: row, last: shape }
    }

    /// Takes in the value of row `row`.
    pub(crate) fn value(&mut self, row: u64, shape: Shape) {
        if self.last_row != row {
            self.settle();
            self.last_row = row;
        }
        self.last = shape;
    }

    fn settle(&mut self) {
        let shapes = &mut self.shapes;
        match self.last {
            Shape::Null => return,
            Shape::Integer => shapes.integer = true,
            Shape::Float => shapes.float = true,
            Shape::Boolean => shapes.boolean = true,
            Shape::Empty => shapes.vector = true,
            Shape::Integers => (shapes.vector, shapes.integer) = (true, true),
            Shape::Floats => (shapes.vector, shapes.float) = (true, true),
            Shape::Booleans => (shapes.vector, shapes.boolean) = (true, true),
            Shape::Text | Shape::Other => shapes.text = true,
        }
        self.rows += 1;
    }

    /// The kind of a field with these values, in a file of `rows` rows; `None` if all are null.
    pub(crate) fn kind(mut self, rows: u64) -> Option<FieldKind> {
        self.settle();
        let Shapes { integer, float, boolean, vector, text } = self.shapes;
        let missing = self.rows < rows;
        let number = |dtype| FieldKind::Tensor { dtype, shape: Vec::new() };
        match (text, integer || float, boolean) {
            _ if self.rows == 0 => None,
            (true, ..) | (_, true, true) => Some(FieldKind::Text),
            _ if vector || (missing && !float) => {
                let dtype = if float {
                    Dtype::F64
                } else if boolean {
                    Dtype::Bool
                } else {
                    Dtype::I64
                };
                Some(FieldKind::Ragged { dtype })
            }
            (_, _, true) => Some(number(Dtype::Bool)),
            _ => Some(number(if float { Dtype::F64 } else { Dtype::I64 })),
        }
    }
}

/// The kind of a field that has kind `a` in one file and `b` in another, or is missing there.
pub(crate) fn join(a: Option<&FieldKind>, b: Option<&FieldKind>) -> Option<FieldKind> {
    let (Some(a), Some(b)) = (a, b) else {
        let kind = a.or(b)?;
        return Some(match kind {
            // The number that a missing one is.
            FieldKind::Tensor { dtype: Dtype::F64, .. } => kind.clone(),
            FieldKind::Tensor { dtype, .. } => FieldKind::Ragged { dtype: *dtype },
            _ => kind.clone(),
        });
    };
    let (Some((of_a, vector_a)), Some((of_b, vector_b))) = (number(a), number(b)) else {
        return Some(FieldKind::Text);
    };
    let dtype = match (of_a, of_b) {
        _ if of_a == of_b => of_a,
        (Dtype::Bool, _) | (_, Dtype::Bool) => return Some(FieldKind::Text),
        _ => Dtype::F64,
    };
    Some(if vector_a || vector_b {
        FieldKind::Ragged { dtype }
    } else {
        FieldKind::Tensor { dtype, shape: Vec::new() }
    })
}

/// The type of a number or of a vector's elements, and which of them it is.
fn number(kind: &FieldKind) -> Option<(Dtype, bool)> {
    match kind {
        FieldKind::Tensor { dtype, .. } => Some((*dtype, false)),
        FieldKind::Ragged { dtype } => Some((*dtype, true)),
        FieldKind::Bytes | FieldKind::Text => None,
    }
}
