//! What to type where something is refused: the exact lines, for the place we run in.

use std::env;
use std::path::Path;

use super::permission::DeniedBy;

/// Where we run, as far as it decides who can give us rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a machine of its own.
    Machine,
    /// In a container of Docker or Podman, or in one that does not tell.
    Container,
    /// In a pod of Kubernetes.
    Kubernetes,
    /// In a task of Amazon ECS.
    Ecs,
}

impl Place {
    /// Where we are, by what each of them leaves in a container.
    pub fn here() -> Self {
        let has = |name: &str| env::var_os(name).is_some();
        let is_there = |path: &str| Path::new(path).exists();
        if has("KUBERNETES_SERVICE_HOST") {
            Self::Kubernetes
        } else if has("ECS_CONTAINER_METADATA_URI_V4") || has("ECS_CONTAINER_METADATA_URI") {
            Self::Ecs
        } else if is_there("/.dockerenv") || is_there("/run/.containerenv") || has("container") {
            Self::Container
        } else {
            Self::Machine
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Machine => "no container that shows",
            Self::Container => "a container",
            Self::Kubernetes => "a pod of Kubernetes",
            Self::Ecs => "a task of Amazon ECS",
        }
    }
}

/// Gives CAP_SYS_PTRACE, which in Docker's default profile also opens what the seccomp filter closes.
fn grant(place: Place) -> &'static [&'static str] {
    match place {
        Place::Machine => &[
            "sudo sampler ...",
            "sudo setcap cap_sys_ptrace,cap_dac_read_search+ep \"$(command -v sampler)\"",
        ],
        Place::Container => &[
            "docker run --cap-add SYS_PTRACE ...",
            "docker exec --privileged CONTAINER sampler ...",
        ],
        Place::Kubernetes => &[
            "kubectl debug -it POD --image=IMAGE --target=CONTAINER --profile=general",
            "in the pod's spec: securityContext: {capabilities: {add: [SYS_PTRACE]}}",
        ],
        Place::Ecs => &[
            r#"in the task definition: "linuxParameters": {"capabilities": {"add": ["SYS_PTRACE"]}}"#,
        ],
    }
}

impl DeniedBy {
    /// The lines of which any one would help where we are; none where nothing does, or where what to do is no command.
    pub fn remedies(&self, place: Place) -> Vec<String> {
        let lines: &[&str] = match self {
            Self::Gone | Self::Zombie | Self::KernelThread | Self::Ourselves => &[],
            // Whoever has it knows how to let it go.
            Self::Tracer { .. } | Self::UserNamespace => &[],
            Self::Seccomp
            | Self::OtherUser { .. }
            | Self::NotDumpable
            | Self::MoreCapabilities
            | Self::Unknown { .. }
            | Self::Yama { scope: 2 } => grant(place),
            Self::Yama { scope: 1 } => {
                let others = [
                    "sampler record -- CMD",
                    "sudo sysctl kernel.yama.ptrace_scope=0",
                ];
                let all = others.iter().chain(grant(place));
                return all.map(|line| (*line).to_owned()).collect();
            }
            Self::Yama { .. } => &[],
        };
        let as_its_user = match self {
            // A number as a name: setpriv(1) needs no entry in /etc/passwd.
            Self::OtherUser { target, ours } if *ours == 0 => Some(format!(
                "setpriv --reuid {target} --clear-groups sampler ..."
            )),
            _ => None,
        };
        let lines = lines.iter().map(|line| (*line).to_owned());
        lines.chain(as_its_user).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_depends_on_where_we_are() {
        let yama = DeniedBy::Yama { scope: 1 };
        let here = yama.remedies(Place::Machine);
        assert!(
            here.iter()
                .any(|line| line == "sudo sysctl kernel.yama.ptrace_scope=0"),
            "{here:?}"
        );
        let pod = DeniedBy::Seccomp.remedies(Place::Kubernetes);
        assert!(
            pod.iter().any(|line| line.starts_with("kubectl debug")),
            "{pod:?}"
        );
        let task = DeniedBy::Seccomp.remedies(Place::Ecs);
        assert!(
            task.iter().all(|line| line.contains("linuxParameters")),
            "{task:?}"
        );
        assert_eq!(
            DeniedBy::Yama { scope: 3 }.remedies(Place::Machine),
            [""; 0]
        );
        let as_root = DeniedBy::OtherUser {
            target: 1000,
            ours: 0,
        }
        .remedies(Place::Container);
        assert!(
            as_root.iter().any(|line| line.contains("--reuid 1000")),
            "{as_root:?}"
        );
    }
}
