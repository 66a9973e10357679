//! One event, one line. Values in logs come from outside (tool names, headers, errors of upstreams); a line break in one
//! of them must not start what looks like an event of our own.

use std::io::{self, Write};

/// Escapes control characters in what is written through it, except the line break that ends an event. The formatter
/// hands over each event in a single `write_all`, which is what makes "the last one" known.
#[derive(Debug)]
pub struct OneLine<W> {
    inner: W,
    /// The formatter's colours begin with ESC. It escapes that character in values itself.
    colours: bool,
}

impl<W: Write> OneLine<W> {
    pub fn new(inner: W, colours: bool) -> Self {
        Self { inner, colours }
    }
}

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        if body.chars().all(|c| !self.forges(c)) {
            self.inner.write_all(event)?;
        } else {
            let mut line = String::with_capacity(event.len() + 16);
            for c in body.chars() {
                if self.forges(c) { line.extend(c.escape_default()) } else { line.push(c) }
            }
            line.push('\n');
            self.inner.write_all(line.as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W> OneLine<W> {
    /// U+2028 and U+2029 are line breaks to many viewers though not control characters.
    fn forges(&self, c: char) -> bool {
        (c.is_control() && !(self.colours && c == '\x1b')) || matches!(c, '\u{2028}' | '\u{2029}')
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = OneLine<Sink>;
        fn make_writer(&'a self) -> Self::Writer {
            OneLine::new(self.clone(), false)
        }
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::fmt().with_writer(sink.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || {
            let hostile = "x\n2026-01-01T00:00:00Z  INFO tollgate: access granted\r\u{2028}";
            tracing::info!(tool = %hostile, "called {hostile}");
        });
        let text = String::from_utf8(sink.0.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains('\u{2028}'), "{text}");
    }
}
