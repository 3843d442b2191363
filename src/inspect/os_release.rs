//! os-release(5): what a system calls itself.
//!
//! | key | becomes |
//! |---|---|
//! | `ID` | the distribution, in libguestfs's word ([`distro`](super::distro)) |
//! | `ID_LIKE` | its family, where the distribution itself is not known |
//! | `PRETTY_NAME`, else `NAME` and `VERSION` | the product name |
//! | `VERSION_ID` | major and minor version |
//! | `VERSION_CODENAME`, else `UBUNTU_CODENAME`, else the word in parentheses in `VERSION` | the codename |
//! | `VARIANT`, else `VARIANT_ID` | the product variant |
//! | `BUILD_ID`, else `IMAGE_VERSION` | the build |

use std::collections::BTreeMap;

use super::assignments;
use super::version::Version;

/// An os-release file's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsRelease {
    /// `ID`, as it is spelled.
    pub id: Option<String>,
    /// The words of `ID_LIKE`.
    pub id_like: Vec<String>,
    /// The product name.
    pub product_name: Option<String>,
    /// The version.
    pub version: Option<Version>,
    /// The codename.
    pub codename: Option<String>,
    /// The variant.
    pub variant: Option<String>,
    /// The build.
    pub build_id: Option<String>,
    /// Every assignment of the file.
    pub fields: BTreeMap<String, String>,
}

/// The fields of an os-release file's text.
#[must_use]
pub fn parse(text: &str) -> OsRelease {
    let fields = assignments::parse(text);
    let get = |key: &str| fields.get(key).filter(|value| !value.is_empty()).cloned();
    let name = || match (get("NAME")?, get("VERSION")) {
        (name, Some(version)) => Some(format!("{name} {version}")),
        (name, None) => Some(name),
    };
    let in_parentheses = || {
        let version = get("VERSION")?;
        let (_, after) = version.split_once('(')?;
        after.split_once(')').map(|(codename, _)| codename.to_owned())
    };
    OsRelease {
        id: get("ID"),
        id_like: get("ID_LIKE").map(|like| like.split_whitespace().map(str::to_owned).collect()).unwrap_or_default(),
        product_name: get("PRETTY_NAME").or_else(name),
        version: get("VERSION_ID").and_then(|id| Version::of_version_id(&id)),
        codename: get("VERSION_CODENAME").or_else(|| get("UBUNTU_CODENAME")).or_else(in_parentheses),
        variant: get("VARIANT").or_else(|| get("VARIANT_ID")),
        build_id: get("BUILD_ID").or_else(|| get("IMAGE_VERSION")),
        fields,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_from_their_keys() {
        let release = parse(
            "NAME=\"Fedora Linux\"\nVERSION=\"39 (Server Edition)\"\nID=fedora\nVERSION_ID=39\nVERSION_CODENAME=\"\"\n\
             PRETTY_NAME=\"Fedora Linux 39 (Server Edition)\"\nVARIANT=\"Server Edition\"\nVARIANT_ID=server\n",
        );
        assert_eq!(release.id.as_deref(), Some("fedora"));
        assert_eq!(release.product_name.as_deref(), Some("Fedora Linux 39 (Server Edition)"));
        assert_eq!(release.version.map(|version| (version.major, version.minor)), Some((39, 0)));
        assert_eq!(release.codename.as_deref(), Some("Server Edition"));
        assert_eq!(release.variant.as_deref(), Some("Server Edition"));
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse("\n#\n"), OsRelease::default());
    }
}
