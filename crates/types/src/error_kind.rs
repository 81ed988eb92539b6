//! What the caller of a failed call should do about it.

use std::fmt;

/// The public kind of an error: not what went wrong inside, but what to do next.
///
/// Every crate's error type answers `kind()` with one of these; the command line turns them into
/// exit codes, and other languages into exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong: fix the setting, argument or input that the message names.
    Invalid,
    /// The named object does not exist: check the name, or make it first.
    NotFound,
    /// Stored bytes are not what was written: restore the object from another copy.
    Corrupt,
    /// The bytes were written by a newer Forebay: upgrade this one.
    NewerFormat,
    /// Somebody else published first: read what they wrote, then decide.
    Conflict,
    /// The tier cannot be reached or written now: try again, or check its access rights.
    Unavailable,
    /// The tier has no room left: free space or raise the budget.
    Full,
    /// A rule of ours said no (a gate, an undrained checkpoint): read the reason.
    Refused,
    /// The work was stopped from outside: start it again to go on.
    Interrupted,
    /// A defect in Forebay: please report it.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Invalid,
        Self::NotFound,
        Self::Corrupt,
        Self::NewerFormat,
        Self::Conflict,
        Self::Unavailable,
        Self::Full,
        Self::Refused,
        Self::Interrupted,
        Self::Internal,
    ];

    /// The process exit code of a command that ends with this kind.
    ///
    /// 0 is success, 1 an unexpected panic and 2 a usage error of the command line.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::NewerFormat => 5,
            Self::Conflict => 6,
            Self::Unavailable => 7,
            Self::Full => 8,
            Self::Refused => 9,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }

    /// The kind as one word, for logs and `--json` output.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Corrupt => "corrupt",
            Self::NewerFormat => "newer_format",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Refused => "refused",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }

    /// The kind an operating-system error belongs to.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        match error.kind() {
            Io::NotFound => Self::NotFound,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Self::Full,
            Io::UnexpectedEof | Io::InvalidData => Self::Corrupt,
            Io::AlreadyExists => Self::Conflict,
            Io::InvalidInput => Self::Invalid,
            _ => Self::Unavailable,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
