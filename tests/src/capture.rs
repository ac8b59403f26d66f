//! Output gathered while a test waits for parts of it.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::patience;

/// What comes out of a pipe or a terminal, gathered by a thread of its own so that the writer is
/// never held up.
#[derive(Debug, Clone)]
pub struct Capture(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    gathered: Mutex<Gathered>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Everything before this has been waited for.
    awaited: usize,
    ended: bool,
}

impl Capture {
    /// Begins to gather what `source` has to say.
    pub fn of(mut source: impl Read + Send + 'static) -> Self {
        let capture = Self(Arc::default());
        let shared = Arc::clone(&capture.0);
        thread::spawn(move || {
            let mut chunk = vec![0; 1 << 16];
            // A terminal ends with EIO, a pipe with 0.
            while let Ok(count @ 1..) = source.read(&mut chunk) {
                shared.lock().bytes.extend_from_slice(&chunk[..count]);
                shared.changed.notify_all();
            }
            shared.lock().ended = true;
            shared.changed.notify_all();
        });
        capture
    }

    /// Waits until `text` has come, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let mut gathered = self.wait_until(|gathered| gathered.find(text).is_some());
        let found = gathered.find(text);
        if let Some(end) = found {
            gathered.awaited = end;
        }
        drop(gathered);
        assert!(
            found.is_some(),
            "waited in vain for {text:?}; what came is {:?}",
            self.text()
        );
    }

    /// Waits for the next line that begins with `start`; the answer is the rest of it.
    #[track_caller]
    pub fn wait_for_line(&self, start: &str) -> String {
        self.wait_for(start);
        let begin = self.0.lock().awaited;
        self.wait_for("\n");
        let gathered = self.0.lock();
        let line = &gathered.bytes[begin..gathered.awaited];
        String::from_utf8_lossy(line).trim_end().to_owned()
    }

    /// Waits until every writer has gone; false when patience ran out.
    pub fn wait_for_end(&self) -> bool {
        self.wait_until(|_| false).ended
    }

    /// All that has come so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().bytes.clone()
    }

    /// All that has come so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().bytes).into_owned()
    }

    /// Waits until there is enough, or the end has come, or patience has run out.
    fn wait_until(&self, is_enough: impl Fn(&Gathered) -> bool) -> MutexGuard<'_, Gathered> {
        let waits = |gathered: &mut Gathered| !gathered.ended && !is_enough(gathered);
        self.0
            .changed
            .wait_timeout_while(self.0.lock(), patience(), waits)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    /// Where `text` ends, the first time it comes after what was waited for.
    fn find(&self, text: &str) -> Option<usize> {
        let new = self.bytes.get(self.awaited..)?;
        let at = new
            .windows(text.len())
            .position(|window| window == text.as_bytes())?;
        Some(self.awaited + at + text.len())
    }
}
