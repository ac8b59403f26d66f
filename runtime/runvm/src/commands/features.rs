/// `runvm features`: prints what this runtime supports.
pub(super) fn features() -> anyhow::Result<u8> {
    super::print(&serde_json::to_string_pretty(&runvm_oci::features())?)?;
    Ok(0)
}
