//! What a request must know.

use std::fmt;
use std::io;

use subtle::ConstantTimeEq as _;

/// So many random bytes: nobody guesses 128 bits.
const TOKEN_BYTES: usize = 16;

/// A random word, made anew by each run.
pub(super) struct Token {
    word: String,
}

impl Token {
    /// Of the kernel's random numbers.
    ///
    /// # Errors
    /// When it gives none.
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self {
            word: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Whether `word` is it. How long that takes does not tell how much of it is right.
    pub(super) fn is(&self, word: &str) -> bool {
        self.word.as_bytes().ct_eq(word.as_bytes()).into()
    }

    /// The word itself, for who is to know it.
    pub(super) fn reveal(&self) -> &str {
        &self.word
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_none_but_itself() -> io::Result<()> {
        let (token, other) = (Token::random()?, Token::random()?);
        assert_eq!(token.reveal().len(), 2 * TOKEN_BYTES);
        assert!(token.is(token.reveal()));
        for wrong in [
            other.reveal(),
            "",
            &token.reveal()[1..],
            &format!("{}0", token.reveal()),
        ] {
            assert!(!token.is(wrong), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(token.reveal()));
        Ok(())
    }
}
