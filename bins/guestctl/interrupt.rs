//! SIGINT and SIGTERM: the first asks long work to stop and clean up after itself, the second ends the program.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};

/// What the signals are heard with.
#[derive(Default)]
struct Heard {
    any: Arc<AtomicBool>,
    which: Arc<AtomicUsize>,
}

fn heard() -> &'static Heard {
    static HEARD: OnceLock<Heard> = OnceLock::new();
    HEARD.get_or_init(|| {
        let heard = Heard::default();
        for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // Where a signal cannot be taken it does what it always does.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&heard.any));
            let _ = signal_hook::flag::register_usize(signal, Arc::clone(&heard.which), code as usize);
            let _ = signal_hook::flag::register(signal, Arc::clone(&heard.any));
        }
        heard
    })
}

/// Whether the user wants to stop. The first call begins to listen; before it a signal ends the program at once.
pub fn wanted() -> bool {
    heard().any.load(Ordering::Relaxed)
}

/// The exit code that tells of the signal, once there was one: 130 or 143.
pub fn exit_code() -> Option<u8> {
    wanted().then(|| u8::try_from(heard().which.load(Ordering::Relaxed)).unwrap_or(130))
}
