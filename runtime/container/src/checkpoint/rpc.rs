//! What is said to CRIU and what it says: the part of its protocol that the engine speaks.
//!
//! The numbers are those of CRIU's `images/rpc.proto`. A flag that is off is not sent: CRIU takes
//! what is missing for off.

/// What is asked for, and what an answer is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    Check = 3,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<Options>,
    #[prost(bool, tag = "3")]
    pub(super) notify_success: bool,
    #[prost(bool, tag = "4")]
    pub(super) keep_open: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) features: Option<Features>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Options {
    #[prost(int32, required, tag = "1")]
    pub(super) images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
    #[prost(bool, tag = "3")]
    pub(super) leave_running: bool,
    #[prost(bool, tag = "4")]
    pub(super) ext_unix_sk: bool,
    #[prost(bool, tag = "5")]
    pub(super) tcp_established: bool,
    #[prost(bool, tag = "6")]
    pub(super) evasive_devices: bool,
    #[prost(bool, tag = "7")]
    pub(super) shell_job: bool,
    #[prost(bool, tag = "8")]
    pub(super) file_locks: bool,
    #[prost(int32, optional, tag = "9")]
    pub(super) log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(super) log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub(super) page_server: Option<PageServer>,
    #[prost(bool, tag = "12")]
    pub(super) notify_scripts: bool,
    #[prost(string, optional, tag = "13")]
    pub(super) root: Option<String>,
    #[prost(string, optional, tag = "14")]
    pub(super) parent_img: Option<String>,
    #[prost(bool, tag = "15")]
    pub(super) track_mem: bool,
    #[prost(bool, tag = "16")]
    pub(super) auto_dedup: bool,
    #[prost(int32, optional, tag = "17")]
    pub(super) work_dir_fd: Option<i32>,
    #[prost(bool, tag = "18")]
    pub(super) link_remap: bool,
    #[prost(message, repeated, tag = "23")]
    pub(super) ext_mnt: Vec<ExternalMount>,
    #[prost(message, repeated, tag = "25")]
    pub(super) cg_root: Vec<CgroupRoot>,
    #[prost(bool, tag = "26")]
    pub(super) rst_sibling: bool,
    #[prost(message, repeated, tag = "27")]
    pub(super) inherit_fd: Vec<InheritFd>,
    #[prost(enumeration = "CgroupMode", optional, tag = "34")]
    pub(super) manage_cgroups_mode: Option<i32>,
    #[prost(string, repeated, tag = "37")]
    pub(super) external: Vec<String>,
    #[prost(uint32, optional, tag = "38")]
    pub(super) empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub(super) join_ns: Vec<JoinNamespace>,
    #[prost(string, optional, tag = "44")]
    pub(super) freeze_cgroup: Option<String>,
    #[prost(bool, tag = "46")]
    pub(super) tcp_skip_in_flight: bool,
    #[prost(bool, tag = "48")]
    pub(super) lazy_pages: bool,
    #[prost(bool, tag = "50")]
    pub(super) orphan_pts_master: bool,
    #[prost(string, optional, tag = "51")]
    pub(super) config_file: Option<String>,
    #[prost(bool, tag = "52")]
    pub(super) tcp_close: bool,
    #[prost(string, optional, tag = "53")]
    pub(super) lsm_profile: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub(super) lsm_mount_context: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PageServer {
    #[prost(string, optional, tag = "1")]
    pub(super) address: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) port: Option<i32>,
}

/// At a dump: a mount point and the name it gets in the images; at a restore: that name and what
/// of the host is mounted.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(string, required, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CgroupRoot {
    #[prost(string, optional, tag = "1")]
    pub(super) controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub(super) path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(int32, required, tag = "2")]
    pub(super) fd: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub(super) kind: String,
    #[prost(string, required, tag = "2")]
    pub(super) file: String,
}

/// What CRIU does about the cgroups of what it restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CgroupMode {
    Ignore = 0,
    Soft = 3,
    Full = 4,
    Strict = 5,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Features {
    #[prost(bool, optional, tag = "1")]
    pub(super) mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(super) lazy_pages: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "4")]
    pub(super) restored: Option<RestoredPid>,
    #[prost(message, optional, tag = "5")]
    pub(super) notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub(super) errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(super) features: Option<Features>,
    #[prost(message, optional, tag = "10")]
    pub(super) version: Option<Version>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct RestoredPid {
    #[prost(int32, required, tag = "1")]
    pub(super) pid: i32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Notify {
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Version {
    #[prost(int32, required, tag = "1")]
    pub(super) major: i32,
    #[prost(int32, required, tag = "2")]
    pub(super) minor: i32,
    #[prost(int32, optional, tag = "4")]
    pub(super) sublevel: Option<i32>,
}

/// Of an entry of `mountpoints-*.img` (CRIU's `images/mnt.proto`), what matters here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct MountEntry {
    #[prost(string, required, tag = "7")]
    pub(super) mount_point: String,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{Kind, Options, Request};

    #[test]
    fn a_request_is_encoded_as_the_protocol_has_it() {
        let request = Request {
            kind: Kind::Dump.into(),
            options: Some(Options {
                images_dir_fd: 5,
                pid: Some(300),
                manage_cgroups_mode: Some(0),
                ..Options::default()
            }),
            ..Request::default()
        };
        // Field 1 is 1; field 2 is 8 bytes of: field 1 is 5, field 2 is 300, field 34 is 0.
        let expected = [
            0x08, 0x01, 0x12, 0x08, 0x08, 0x05, 0x10, 0xac, 0x02, 0x90, 0x02, 0x00,
        ];
        assert_eq!(request.encode_to_vec(), expected);
    }
}
