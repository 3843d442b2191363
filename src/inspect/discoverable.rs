//! The Discoverable Partitions Specification (UAPI Group, DPS): GPT partition types that say where a partition is mounted
//! when the guest's fstab does not.
//!
//! | type | mounted at |
//! |---|---|
//! | root, one per architecture | `/` |
//! | usr, one per architecture | `/usr` |
//! | home, srv, var, tmp | `/home`, `/srv`, `/var`, `/var/tmp` |
//! | ESP | `/efi`, else `/boot/efi`, else `/boot`; the first that is a directory |
//! | XBOOTLDR | `/boot` |
//! | swap | nowhere |

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Root,
    Usr,
    Home,
    Srv,
    Var,
    VarTmp,
    Esp,
    Xbootldr,
    Swap,
}

const ROOTS: [&str; 19] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", // x86-64
    "44479540-f297-41b2-9af7-d131d5f0458a", // x86
    "b921b045-1df0-41c3-af44-4c6f280d3fae", // arm64
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3", // arm
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224", // riscv64
    "60d5a7fe-8e7d-435c-b714-3dd8162144e1", // riscv32
    "c31c45e6-3f39-412e-80fb-4809c4980599", // ppc64-le
    "912ade1d-a839-4913-8964-a10eee08fbd2", // ppc64
    "1de3f1ef-fa98-47b5-8dcd-4a860a654d78", // ppc
    "5eead9a9-fe09-4a1e-a1d7-520d00531306", // s390x
    "08a7acea-624c-4a20-91e8-6e0fa67d23f9", // s390
    "77055800-792c-4f94-b39a-98c91b762bb6", // loongarch64
    "993d8d3d-f80e-4225-855a-9daf8ed7ea97", // ia64
    "37c58c8a-d913-4156-a25f-48b1b64e07f0", // mips-le
    "700bda43-7a34-4507-b179-eeb93d7a7ca3", // mips64-le
    "6523f8ae-3eb1-4e2a-a05a-18b695ae656f", // alpha
    "d27f46ed-2919-4cb8-bd25-9531f3c16534", // arc
    "1aacdb3b-5444-4138-bd9e-e5c2239b2346", // parisc
    "c50cdd70-3862-4cc3-90e1-809a8c93ee2c", // tilegx
];

const USRS: [&str; 15] = [
    "8484680c-9521-48c6-9c11-b0720656f69e", // x86-64
    "75250d76-8cc6-458e-bd66-bd47cc81a812", // x86
    "b0e01050-ee5f-4390-949a-9101b17104e9", // arm64
    "7d0359a3-02b3-4f0a-865c-654403e70625", // arm
    "beaec34b-8442-439b-a40b-984381ed097d", // riscv64
    "b933fb22-5c3f-4f91-af90-e2bb0fa50702", // riscv32
    "15bb03af-77e7-4d4a-b12b-c0d084f7491c", // ppc64-le
    "2c9739e2-f068-46b3-9fd0-01c5a9afbcca", // ppc64
    "7d14fec5-cc71-415d-9d6c-06bf0b3c3eaf", // ppc
    "8a4f5770-50aa-4ed3-874a-99b710db6fea", // s390x
    "cd0f869b-d0fb-4ca0-b141-9ea87cc78d66", // s390
    "e611c702-575c-4cbe-9a46-434fa0bf7e3f", // loongarch64
    "4301d2a6-4e3b-4b2a-bb94-9e0b2c4225ea", // ia64
    "0f4868e9-9952-4706-979f-3ed3a473e947", // mips-le
    "c97c1f32-ba06-40b4-9f22-236061b08aa8", // mips64-le
];

/// The type of the partition that GRUB's core image lies in on a GPT disk that boots by BIOS.
pub(super) const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";

/// What a partition of this GPT type (lower-case UUID) is for.
pub(super) fn purpose(partition_type: &str) -> Option<Purpose> {
    Some(match partition_type {
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" => Purpose::Esp,
        "bc13c2ff-59e6-4262-a352-b275fd6f7172" => Purpose::Xbootldr,
        "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f" => Purpose::Swap,
        "933ac7e1-2eb4-4f13-b844-0e14e2aef915" => Purpose::Home,
        "3b8f8425-20e0-4f3b-907f-1a25a76f98e8" => Purpose::Srv,
        "4d21b016-b534-45c2-a9fb-5c16e091fd2d" => Purpose::Var,
        "7ec6f557-3bc5-4aca-b293-16ef5df639d1" => Purpose::VarTmp,
        uuid if ROOTS.contains(&uuid) => Purpose::Root,
        uuid if USRS.contains(&uuid) => Purpose::Usr,
        _ => return None,
    })
}

impl Purpose {
    /// Where it may be mounted, the first existing directory wins.
    pub(super) fn mountpoints(self) -> &'static [&'static str] {
        match self {
            Self::Root | Self::Swap => &[],
            Self::Usr => &["/usr"],
            Self::Home => &["/home"],
            Self::Srv => &["/srv"],
            Self::Var => &["/var"],
            Self::VarTmp => &["/var/tmp"],
            Self::Esp => &["/efi", "/boot/efi", "/boot"],
            Self::Xbootldr => &["/boot"],
        }
    }
}
