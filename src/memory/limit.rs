//! How much memory this process may take.

use std::path::{Path, PathBuf};

/// The machine's memory, or the smallest limit of the control groups that this process is in, where that is smaller.
pub(super) fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    // Without /proc nothing is known of groups, except what stands at the root of the hierarchy, as in a container.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    smallest_limit(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |limit| limit.min(machine))
}

/// The smallest memory limit of the groups in `groups` (the text of `/proc/self/cgroup`) and of those above them.
fn smallest_limit(root: &Path, groups: &str) -> Option<u64> {
    let mut files = files_up(root, "/", "memory.max");
    files.extend(files_up(&root.join("memory"), "/", "memory.limit_in_bytes"));
    for group in groups.lines() {
        // `hierarchy:controllers:path`; version 2 has the hierarchy 0 and names no controllers.
        let mut parts = group.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.is_empty() {
            files.extend(files_up(root, path, "memory.max"));
            files.extend(files_up(&root.join("unified"), path, "memory.max"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.extend(files_up(&root.join("memory"), path, "memory.limit_in_bytes"));
        }
    }
    // A file that is not there, and the word `max`, are no limit. A container may see paths of its host, which are not there.
    files.iter().filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The file of this name in a group and in all above it.
fn files_up(root: &Path, group: &str, name: &str) -> Vec<PathBuf> {
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|group| root.join(group).join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(smallest_limit(root, "0::/system.slice/a.service\n"), None);
        write(root, "system.slice/a.service/memory.max", "max\n");
        assert_eq!(smallest_limit(root, "0::/system.slice/a.service\n"), None);
        write(root, "system.slice/memory.max", "300\n");
        assert_eq!(smallest_limit(root, "0::/system.slice/a.service\n"), Some(300));
        write(root, "system.slice/a.service/memory.max", "200\n");
        assert_eq!(smallest_limit(root, "0::/system.slice/a.service\n"), Some(200));
        assert_eq!(smallest_limit(root, "0::/system.slice/b.service\n"), Some(300));
        write(root, "memory.max", "100\n");
        assert_eq!(smallest_limit(root, "0::/../elsewhere\n"), Some(100));
    }

    #[test]
    fn version_1_is_understood_and_so_is_a_container_that_sees_its_hosts_path() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let groups = "12:cpuset:/x\n5:cpu,memory:/docker/abc\n1:name=systemd:/x\n";
        write(root, "memory/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(smallest_limit(root, groups), Some(9_223_372_036_854_771_712));
        write(root, "memory/docker/abc/memory.limit_in_bytes", "700");
        assert_eq!(smallest_limit(root, groups), Some(700));
        assert_eq!(smallest_limit(root, "nonsense\n::\n0:\n"), Some(9_223_372_036_854_771_712));
    }
}
