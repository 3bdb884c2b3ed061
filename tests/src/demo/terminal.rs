//! Where the show is written: a terminal that is redrawn in place, or lines for whoever reads a pipe.
//!
//! A reader that has gone away (`| head`) is no reason to leave a lab behind: what cannot be written is dropped.

use std::io::{self, IsTerminal, Write};

/// Carriage return, and clear to the end of the screen.
const CLEAR_BELOW: &str = "\r\x1b[J";
/// Long lines are cut, or a wrapped one would break the arithmetic of redrawing.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// What the output can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It can be redrawn in place.
    pub redraws: bool,
    /// It shows colours.
    pub colours: bool,
}

impl Abilities {
    /// Decides by what is known: in a pipe nothing, on a `dumb` terminal nothing, `NO_COLOR` (see no-color.org) no colour.
    #[must_use]
    pub fn decide(is_terminal: bool, term: Option<&str>, no_color: bool) -> Self {
        let redraws = is_terminal && term.is_some_and(|term| !term.is_empty() && term != "dumb");
        Self { redraws, colours: redraws && !no_color }
    }

    /// What our own standard output can do.
    #[must_use]
    pub fn of_stdout(no_color: bool) -> Self {
        let asked = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::decide(io::stdout().is_terminal(), std::env::var("TERM").ok().as_deref(), no_color || asked)
    }
}

/// The output.
#[derive(Debug)]
pub struct Terminal<W: Write> {
    out: W,
    can: Abilities,
    /// Lines of the picture that stand at the bottom.
    drawn: usize,
}

impl<W: Write> Terminal<W> {
    /// An output with these abilities.
    pub fn new(out: W, can: Abilities) -> Self {
        Self { out, can, drawn: 0 }
    }

    /// What it can do.
    pub fn can(&self) -> Abilities {
        self.can
    }

    /// Writes lines that stay, above the picture.
    pub fn say<S: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = S>) {
        let mut text = self.erase();
        for line in lines {
            text += line.as_ref();
            text.push('\n');
        }
        self.put(&text);
    }

    /// Draws the picture anew, in place. Without that ability it does nothing.
    pub fn draw(&mut self, picture: &[String]) {
        if !self.can.redraws {
            return;
        }
        let mut text = self.erase();
        text += NO_WRAP;
        for line in picture {
            text += line;
            text.push('\n');
        }
        text += WRAP;
        self.drawn = picture.len();
        self.put(&text);
    }

    /// What takes the picture away.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A{CLEAR_BELOW}"),
        }
    }

    fn put(&mut self, text: &str) {
        drop(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_real_terminal_redraws_and_only_the_willing_get_colours() {
        let all = Abilities { redraws: true, colours: true };
        let none = Abilities { redraws: false, colours: false };
        assert_eq!(Abilities::decide(true, Some("xterm"), false), all);
        assert_eq!(Abilities::decide(true, Some("xterm"), true), Abilities { colours: false, ..all });
        assert_eq!(Abilities::decide(true, Some("dumb"), false), none);
        assert_eq!(Abilities::decide(true, None, false), none);
        assert_eq!(Abilities::decide(false, Some("xterm"), false), none);
    }

    fn written(can: Abilities) -> String {
        let mut terminal = Terminal::new(Vec::new(), can);
        terminal.draw(&["a".into(), "b".into()]);
        terminal.say(["done"]);
        terminal.draw(&["c".into()]);
        terminal.say(["end"]);
        String::from_utf8(terminal.out).unwrap()
    }

    #[test]
    fn a_pipe_gets_lines_and_no_escape() {
        assert_eq!(written(Abilities { redraws: false, colours: false }), "done\nend\n");
    }

    #[test]
    fn a_terminal_gets_its_picture_below_what_stays() {
        let text = written(Abilities { redraws: true, colours: true });
        assert_eq!(
            text,
            "\x1b[?7la\nb\n\x1b[?7h\x1b[2A\r\x1b[Jdone\n\x1b[?7lc\n\x1b[?7h\x1b[1A\r\x1b[Jend\n"
        );
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        Terminal::new(Gone, Abilities { redraws: false, colours: false }).say(["x"]);
    }
}
