//! SIGINT and SIGTERM: the first asks long work to stop and clean up after itself, the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether the user wants to stop. The first call begins to listen; before it a signal ends the program at once.
pub fn wanted() -> bool {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let flag = FLAG.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // Where a signal cannot be taken it does what it always does.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag));
            let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
        }
        flag
    });
    flag.load(Ordering::Relaxed)
}
