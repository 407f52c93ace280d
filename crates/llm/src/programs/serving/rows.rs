//! The matrix that says what each row of a step does: its columns, and how they are read in a program.

use graph::{DType, Tensor, ops};

/// The columns before a row's tokens and pages. Those of fractions hold the bits of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Where the device keeps what it knows of the sequence.
    Slot,
    /// Of the row's first token in its sequence.
    Position,
    /// How many tokens of the row are real; none in a row that is idle.
    Count,
    /// The sum of [`Flag`]s.
    Flags,
    /// Which of the row's tokens is the first of the answer; those before are the prompt's.
    AnswerFrom,
    Temperature,
    TopK,
    TopP,
    MinP,
    RepetitionPenalty,
    PresencePenalty,
    FrequencyPenalty,
    SeedLow,
    SeedHigh,
    /// The number of its adapter's slot, from 1; 0 for none.
    Adapter,
}

impl Column {
    /// How many there are.
    pub const COUNT: usize = Column::Adapter as usize + 1;
}

/// What a row does beside running its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Flag {
    /// Its first token is the last one that was drawn for its slot, and not the one given.
    FromLast = 1,
    /// Its slot was another sequence's: what was counted there is forgotten.
    Fresh = 2,
    /// What it draws is the slot's last token from now on.
    Draws = 4,
    /// Only tokens of the mask may come.
    Masked = 8,
    /// It has a penalty that is not neutral.
    Penalized = 16,
    /// It has biases.
    Biased = 32,
    /// The likeliest tokens are wanted.
    Top = 64,
}

/// The columns of a step's rows: [`Column`]s, then `width` tokens, then `blocks` pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    pub width: usize,
    pub blocks: usize,
}

impl RowLayout {
    pub fn columns(self) -> usize {
        Column::COUNT + self.width + self.blocks
    }

    /// Where a row's tokens begin.
    pub fn tokens(self) -> usize {
        Column::COUNT
    }

    /// Where its pages begin.
    pub fn pages(self) -> usize {
        Column::COUNT + self.width
    }
}

/// The rows in a program.
pub(super) struct Rows<'g> {
    rows: Tensor<'g>,
    layout: RowLayout,
}

impl<'g> Rows<'g> {
    pub(super) fn new(rows: Tensor<'g>, layout: RowLayout) -> Rows<'g> {
        Rows { rows, layout }
    }

    /// `[batch]` s32.
    pub(super) fn column(&self, column: Column) -> Tensor<'g> {
        let at = column as usize;
        self.rows.slice("column", at, at + 1).squeeze("column")
    }

    /// `[batch]` f32.
    pub(super) fn fraction(&self, column: Column) -> Tensor<'g> {
        self.column(column).bitcast_convert(DType::F32)
    }

    /// `[batch]` u32.
    pub(super) fn bits(&self, column: Column) -> Tensor<'g> {
        self.column(column).bitcast_convert(DType::U32)
    }

    /// `[batch]` bool.
    pub(super) fn flag(&self, flag: Flag) -> Tensor<'g> {
        has(self.column(Column::Flags), flag)
    }

    /// `[batch, seq]` s32.
    pub(super) fn tokens(&self) -> Tensor<'g> {
        let start = self.layout.tokens();
        self.rows.slice("column", start, start + self.layout.width).rename("column", "seq")
    }

    /// `[batch, blocks]` s32.
    pub(super) fn blocks(&self) -> Tensor<'g> {
        let start = self.layout.pages();
        self.rows.slice("column", start, start + self.layout.blocks).rename("column", "blocks")
    }
}

/// Whether sums of flags have one.
pub(super) fn has<'g>(flags: Tensor<'g>, flag: Flag) -> Tensor<'g> {
    let number = |value: f64| ops::constant(flags.graph(), DType::S32, value);
    flags.and(number(f64::from(flag as i32))).not_equal(number(0.0))
}
