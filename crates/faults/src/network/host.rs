use std::process::{Child, Command};
use std::sync::{Arc, mpsc};

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{CONTROLLER, HostId, address_of};

/// Larger than Ethernet's: a packet costs the switch the same whatever its size.
const MTU: u16 = 9000;

type Spawn = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// A network namespace with one device, whose packets the switch has, and a thread that lives in it and starts processes
/// there. It goes with its thread and its processes.
pub(crate) struct Host {
    id: HostId,
    spawns: mpsc::Sender<Spawn>,
    device: Arc<SyncDevice>,
}

impl Host {
    pub(crate) fn start(id: HostId) -> anyhow::Result<Host> {
        let (spawns, wanted) = mpsc::channel::<Spawn>();
        let (started, result) = mpsc::sync_channel(1);
        let run = move || {
            // Of this thread only; children inherit it.
            let made =
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace").and_then(|()| device(id));
            let is_made = made.is_ok();
            drop(started.send(made));
            if is_made {
                for (mut command, spawned) in wanted {
                    drop(spawned.send(command.spawn()));
                }
            }
        };
        std::thread::Builder::new().name(format!("host {id}")).spawn(run)?;
        let device = Arc::new(result.recv().context("the thread of a host")??);
        Ok(Host { id, spawns, device })
    }

    pub(crate) fn id(&self) -> HostId {
        self.id
    }

    pub(crate) fn device(&self) -> Arc<SyncDevice> {
        self.device.clone()
    }

    /// Starts a process on this host.
    pub(crate) fn spawn(&self, command: Command) -> anyhow::Result<Child> {
        let (spawned, result) = mpsc::sync_channel(1);
        let name = command.get_program().to_owned();
        self.spawns.send((command, spawned)).context("the host has gone")?;
        result.recv().context("the host has gone")?.with_context(|| format!("start {}", name.display()))
    }
}

/// Gives the calling process' own namespace an address of the same network, as the controller's.
pub(crate) fn own_address() -> anyhow::Result<Arc<SyncDevice>> {
    Ok(Arc::new(device(CONTROLLER)?))
}

fn device(id: HostId) -> anyhow::Result<SyncDevice> {
    let builder = DeviceBuilder::new().name("coordd0").mtu(MTU).ipv4(address_of(id), 24, None);
    builder.build_sync().context("a TUN device (/dev/net/tun, and the rights of root)")
}
