// Package sshtransport reaches the agent on a machine over SSH. It knows nothing of
// builds: it hands out streams, each a net.Conn whose other end is a connection to
// the agent's Unix socket. An http.Transport dials with Client.DialAgent.
//
// # One connection a machine
//
// A Client has at most one SSH connection, made when a stream is first asked for
// and shared by all. A connection that is lost fails its streams with an error that
// matches ErrLinkLost; the next DialAgent connects again. Nothing is retried here,
// but for what has no other place: an agent that ended is started again once, and a connection that an
// sshd with too many others dropped at once is tried a few times more.
// How long a machine that cannot be reached is left alone is up to the caller: each
// DialAgent tries, and who calls meanwhile waits for the same attempt.
//
// Neither the SSH nor the SFTP library knows contexts, so the only way to interrupt
// them is to close the connection. The rule, kept in link.go, is: the context of a
// caller bounds that caller's wait and nothing else; the connection is closed when
// no caller waits any more for it to be made, when one of the time limits of Config
// passes while it is made or while an agent is started, when a keepalive is not
// answered, and on Client.Close.
//
// With Config.OpenSSH, the program ssh makes the connection, for what this package's own SSH
// can't: a process of it is a master (ControlMaster in ssh_config(5)), which lets others have channels
// on its connection through a socket. All that follows is the same then. A master ends with its link
// and with this process; one that the user has running for the host is used, and left alone.
//
// # How the agent gets there
//
// The coordinator runs, with the account's login shell and no shell syntax beyond
// quoting,
//
//	sh -c SCRIPT REMOTE-DIR/SHA256/lighter-agent SHA256 start ARGS...
//
// whose SCRIPT opens the program, compares the SHA-256 of what it opened, and executes
// that, so that what runs is what was hashed, at each start. (Where there is no sha256sum,
// the program is read back by SFTP, and then run by its name.) It gives it Bootstrap.StartInput on its standard input, and reads its standard output
// up to the magic line
//
//	lighter-agent/1 start {"socket":"/run/user/1000/lighter/agent.sock"}
//
// (WriteStart writes it). What comes before the line is noise of login scripts and is
// skipped. "start" makes sure that an agent runs, detached, listening on that socket;
// it prints the line and exits with status 0, or says on standard error what is
// wrong and exits with another. It may be run at any time, also several at a time.
//
// If the program is not there, or another one is in its place, the machine is asked what it is (uname), the agent for
// it is uploaded by SFTP beside its place, its hash is checked, it is renamed, and
// "start" is run once more. Where SFTP fails, sh does the same: it writes what it reads to a file.
//
// # How streams get to the agent
//
// ModeStreamLocal: each stream is a channel of type direct-streamlocal@openssh.com to
// the agent's socket. No process is started for it.
//
// ModeSession: where the server forbids that, each stream is a session that runs
//
//	/proc/PID/exe relay SOCKET
//
// with the agent's PID, which prints the magic line "lighter-agent/1 connect", and from then
// on relays its standard input and output to the socket (ServeConnect does all of it).
// An account whose forced command is "lighter-agent connect" works the same: the magic
// line in answer to "start" shows that it is one.
//
// Server is an SSH server of our own for machines that have none. It answers each
// session, whatever its command, like such an account, and takes channels of type
// direct-streamlocal@openssh.com to ServerSocket.
//
// # Folders
//
// Folder needs no agent: it reads and writes whole files of a folder on a machine by SFTP,
// on a connection of its own that is made again when it was lost. A machine that cannot be
// reached is left alone for a growing time, in which all fails at once with a *DownError.
//
// # Speed
//
// A channel's window in golang.org/x/crypto/ssh is 2 MiB and fixed. One stream thus
// moves at most 2 MiB a round trip: on a path of 50 ms, 40 MiB/s. Several streams have
// a window each.
package sshtransport
