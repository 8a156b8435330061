package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"lighter/internal/api"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/internal/human"
	"lighter/internal/machinetest"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/nar/signature"
)

// What follows are the checks of files and folders of the head.

// othersWrite holds for modes that let others than owner and group write.
func othersWrite(info fs.FileInfo) bool { return info.Mode().Perm()&0o002 != 0 }

func (d *Doctor) checkFolders(context.Context) {
	d.checkFolder("state folder", d.folders.State, "the coordinator makes it when it is first started")
	d.checkFolder("configuration", d.folders.Config, "make it, and put machines.toml there: lighter help machines.toml describes it")
}

func (d *Doctor) checkFolder(check, folder, missing string) {
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.note(check, missing, "%s is not there", folder)
	case err != nil:
		d.problem(check, "let the user who runs this look at it", "%v", err)
	case !info.IsDir():
		d.problem(check, "move the file away", "%s is not a folder", folder)
	case othersWrite(info):
		d.problem(check, "chmod o-w "+human.ShellWord(folder), "%s: anyone on this computer may write there (mode %04o)", folder, info.Mode().Perm())
	default:
		d.ok(check, "%s, mode %04o, of %s", folder, info.Mode().Perm(), disk.Owner(info))
	}
}

// checkWritable asks whether this user can write where a coordinator must, and whether one runs already.
func (d *Doctor) checkWritable(ctx context.Context) {
	for _, folder := range []string{d.folders.State, filepath.Dir(d.folders.Socket)} {
		if err := head.Writable(folder); err != nil {
			d.problem("state folder", "run this, and the coordinator, as the user to whom it belongs", "%v", err)
		}
	}
	if v, err := d.client.Version(ctx); err == nil {
		d.note("socket", "", "a coordinator of version %s runs with it now", v.Version)
	}
}

func (d *Doctor) checkSocket(ctx context.Context) {
	const check = "socket"
	socket := d.folders.Socket
	const start = "start the coordinator: lighter coordinator, or systemctl start lighter-coordinator"
	info, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.problem(check, start, "%s is not there, so no coordinator runs", socket)
		return
	case err != nil:
		d.problem(check, "run this as the coordinator's user, or as one of its group", "%v", err)
		return
	case info.Mode().Type() != os.ModeSocket:
		d.problem(check, "move it away, or name the right one with --socket", "%s is not a socket", socket)
		return
	case othersWrite(info):
		d.problem(check, "chmod o-rwx "+human.ShellWord(socket), "%s: anyone on this computer may have things built (mode %04o)", socket, info.Mode().Perm())
	default:
		d.ok(check, "%s, mode %04o, of %s", socket, info.Mode().Perm(), disk.Owner(info))
	}
	status, err := d.client.Status(ctx)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		d.problem(check, start, "%s: nothing listens there; a coordinator that was killed left it behind", socket)
	case errors.Is(err, fs.ErrPermission):
		d.problem(check, fmt.Sprintf("run this as %s, or as a member of the group %s", disk.Owner(info), disk.Group(info)), "%s: no access", socket)
	case err != nil:
		d.problem(check, "look at the coordinator's log", "the coordinator does not answer: %v", err)
	default:
		d.status = status
		d.checkVersion(ctx)
		d.tellRights()
	}
}

// tellRights says what the user who runs this may do.
func (d *Doctor) tellRights() {
	const check = "rights"
	switch c := d.status.Caller; {
	case c == nil: // an old coordinator does not say
	case c.Operates:
		d.ok(check, "you may operate")
	default:
		d.ok(check, "you may submit and look; %s may operate", c.Operators)
	}
}

func (d *Doctor) checkVersion(ctx context.Context) {
	const check = "coordinator"
	v, err := d.client.Version(ctx)
	switch {
	case err != nil:
		d.problem(check, "look at the coordinator's log", "it does not say its version: %v", err)
	case v.API != api.APIVersion:
		d.problem(check, "install the same version of lighter for both, and restart the coordinator", "it speaks version %d of the API, this program %d", v.API, api.APIVersion)
	case v.Version != version.Version:
		d.note(check, "restart the coordinator; builds on machines go on meanwhile", "it is version %s, this program %s", v.Version, version.Version)
	default:
		d.ok(check, "version %s, process %d, started %s", v.Version, d.status.PID, human.Ago(d.status.Started, d.host.now()))
	}
}

// checkSettings looks at the file of settings, which may name programs to run.
func (d *Doctor) checkSettings(context.Context) {
	const check = "settings"
	file := d.folders.SettingsFile()
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		d.ok(check, "there is no %s, so the defaults apply", file)
		return
	}
	if err != nil {
		d.problem(check, "let the coordinator's user read it", "%v", err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		d.problem(check, "", "%v", err)
	case !info.Mode().IsRegular():
		d.problem(check, "move it away", "%s is not a file", file)
	case othersWrite(info):
		d.problem(check, "chmod o-w "+human.ShellWord(file), "%s: anyone on this computer may write it, and it names programs that are run", file)
	default:
		d.tryToSettle(check, file)
	}
}

// tryToSettle tries what a start makes of the settings, or tells what the one that runs made of them.
func (d *Doctor) tryToSettle(check, file string) {
	set, err := d.folders.LoadSettings()
	if err != nil {
		d.problem(check, "fix it; lighter help lighter.toml describes it", "%v", err)
		return
	}
	var wrong []string
	if d.status != nil && d.status.Installation != nil {
		wrong = d.status.SettingsProblems
	} else {
		for _, err := range d.folders.SettingsProblems(set, d.getenv) {
			wrong = append(wrong, err.Error())
		}
	}
	for _, text := range wrong {
		d.problem(check, "do what the text says, then: lighter coordinator reload; the rest of the settings is carried out", "%s", text)
	}
	if len(wrong) == 0 {
		d.ok(check, "%s", file)
	}
}

func (d *Doctor) checkMachinesFile(ctx context.Context) {
	const check = "machines file"
	file := d.folders.MachinesFile()
	list, warnings, err := head.ReadMachines(ctx, file, d.getenv)
	var wrong machines.Errors
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.problem(check, "write it; lighter help machines.toml describes it", "%s is not there", file)
		return
	case errors.As(err, &wrong):
		for _, e := range wrong {
			d.problem(check, "lighter machines check shows the line, and what would be right", "%v", e)
		}
		return
	case err != nil:
		d.problem(check, "let the coordinator's user read it", "%v", err)
		return
	}
	d.machines = list
	if len(list) == 0 {
		d.problem(check, "add a machine; lighter help machines.toml says how", "%s lists no machine", file)
		return
	}
	d.ok(check, "%s: %s, %s", file, human.Count(len(list), "machine"), human.Count(machines.Slots(list), "slot"))
	for _, w := range warnings {
		d.note(check, "", "%v", w)
	}
}

func (d *Doctor) checkKeys(context.Context) {
	const check = "signing key"
	public := signature.PublicFile(d.folders.SigningKey())
	key, err := signature.LoadPublicKey(public)
	generate := "lighter key generate"
	if d.folders.StoreKind == machines.StoreDaemon {
		generate = "guix archive --generate-key, as root"
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.folders.StoreKind == machines.StoreLocal && d.status == nil:
		d.note(check, "the coordinator makes it on its first start, or "+generate, "%s is not there yet", public)
		return
	case errors.Is(err, fs.ErrNotExist):
		d.problem(check, generate, "%s is not there", public)
		return
	case err != nil:
		d.problem(check, "put the right file there from a backup, or make a new key and authorize it on the machines: "+generate, "%v", err)
		return
	}
	secret := signature.SecretFile(d.folders.SigningKey())
	info, err := os.Stat(secret)
	switch {
	case err != nil && d.folders.StoreKind == machines.StoreDaemon:
		d.ok(check, "%s; guix-daemon signs", key.Fingerprint())
	case err != nil:
		d.problem(check, "put it there from a backup, or make a new key: move "+human.ShellWord(public)+" away, and "+generate, "%v", err)
	case info.Mode().Perm()&0o077 != 0:
		d.problem(check, "chmod 600 "+human.ShellWord(secret), "%s: others besides its owner may use the secret key (mode %04o)", secret, info.Mode().Perm())
	default:
		d.checkPair(check, secret, key)
	}
}

// checkPair makes sure that the secret key is that of the public one.
func (d *Doctor) checkPair(check, file string, public *signature.PublicKey) {
	secret, err := signature.LoadPrivateKey(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.ok(check, "%s; only its owner may use it", public.Fingerprint())
	case err != nil:
		d.problem(check, "put the right file there from a backup", "%v", err)
	case !secret.Public().Equal(public):
		d.problem(check, "put the two files of one key there", "%s is not the secret key of the public one beside it", file)
	default:
		d.ok(check, "%s", public.Fingerprint())
	}
}

// checkACL asks whether what the machines sign is taken.
func (d *Doctor) checkACL(context.Context) {
	const check = "ACL"
	file := d.folders.ACL()
	info, err := os.Stat(file)
	if err == nil && othersWrite(info) {
		d.problem(check, "chmod o-w "+human.ShellWord(file), "%s: anyone on this computer may write it, and so decide what is trusted", file)
	}
	read := d.folders.LoadOwnACL
	if d.folders.StoreKind == machines.StoreDaemon {
		read = func() (*signature.ACL, error) { return signature.LoadACLIfAny(file) }
	}
	acl, err := read()
	if err != nil {
		d.problem(check, "repair it, or move it away and authorize the machines again: "+machinetest.AuthorizeMachine("NAME", ""), "%v", err)
		return
	}
	before := len(d.findings)
	for _, m := range d.machineStatus() {
		if m.PublicKey == "" {
			continue // it was never up
		}
		key, err := signature.ParsePublicKey([]byte(m.PublicKey))
		switch {
		case err != nil:
			d.problem(check, "lighter machines test "+human.ShellWord(m.Name), "%s signs with something that is not a key: %v", m.Name, err)
		case !acl.Authorized(key):
			d.problem(check, machinetest.AuthorizeMachine(m.Name, ""), "%s signs with %s, which is not authorized: what it builds is not taken", m.Name, key.Fingerprint())
		}
	}
	if len(d.findings) == before {
		d.ok(check, "%s: %s authorized", file, human.Count(len(acl.Keys()), "key"))
	}
}

// machineStatus returns what the coordinator knows of its machines, if one answers.
func (d *Doctor) machineStatus() []api.MachineStatus {
	if d.status == nil {
		return nil
	}
	return d.status.Machines
}
