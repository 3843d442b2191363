//! Things users ask for: each one file, one entry function, one options struct.
