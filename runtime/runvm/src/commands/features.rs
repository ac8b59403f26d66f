/// `runvm features`: prints what this runtime supports.
pub(super) fn features() -> anyhow::Result<u8> {
    let can_checkpoint = runvm_container::criu_is_installed();
    let features = runvm_oci::features(can_checkpoint);
    super::print(&serde_json::to_string_pretty(&features)?)?;
    Ok(0)
}
