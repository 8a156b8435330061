package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/internal/agentd"
	"lighter/internal/api"
	"lighter/internal/disk"
	"lighter/internal/head"
	"lighter/internal/version"
	"lighter/machines"
	"lighter/nar/signature"
)

// installation is one that a doctor looks at: a good one, until a test breaks it.
type installation struct {
	t      *testing.T
	folder string // with all of it
	f      head.Folders
	status api.Status // what its coordinator says
	host   host
	env    map[string]string
}

func newInstallation(t *testing.T) *installation {
	t.Helper()
	folder := t.TempDir()
	in := &installation{
		t: t, folder: folder, env: map[string]string{"HOME": folder, "LIGHTER_AGENTS": filepath.Join(folder, "agents")},
		f: head.Folders{
			State: filepath.Join(folder, "state"), Config: filepath.Join(folder, "config"), Socket: filepath.Join(folder, "s"), StoreKind: machines.StoreLocal,
		},
	}
	in.serve(in.f.Socket)
	for _, folder := range []string{in.f.State, in.f.Ledger(), in.f.Config, in.env["LIGHTER_AGENTS"], filepath.Join(folder, "proc", "7")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	key, err := agentd.SigningKey(in.f.SigningKey(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	in.write("config/machines.toml", "[[machine]]\nname = \"alpha\"\nsystems = [\"x86_64-linux\", \"i686-linux\"]\nuser = \"offload\"\n")
	in.write("agents/lighter-agent-linux-amd64", "an agent")
	in.write("proc/7/limits", "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 65536                files\n")
	in.status = api.Status{PID: 7, Started: time.Now(), Machines: []api.MachineStatus{
		{Name: "alpha", State: "up", ParallelBuilds: 4, PublicKey: key.Public().String()},
	}}
	in.host = host{
		proc: filepath.Join(folder, "proc"), now: time.Now,
		space:       func(string) (disk.Space, error) { return disk.Space{Free: 100 << 30, Inodes: 1 << 30}, nil },
		clockSynced: func() (bool, error) { return true, nil },
	}
	return in
}

// serve has its coordinator answer on a socket, until stop is called or the test ends.
func (in *installation) serve(socket string) (stop func()) {
	in.t.Helper()
	listener, err := new(net.ListenConfig).Listen(in.t.Context(), "unix", socket)
	if err != nil {
		in.t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o660); err != nil {
		in.t.Fatal(err)
	}
	mux := http.NewServeMux()
	answer := func(pattern string, v any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	answer("GET /v1/status", &in.status)
	answer("GET /v1/version", api.Version{Version: version.Version, API: api.APIVersion})
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	stop = sync.OnceFunc(func() {
		server.Close()
		<-done
	})
	in.t.Cleanup(stop)
	return stop
}

func (in *installation) write(name, text string) {
	in.t.Helper()
	if err := os.WriteFile(filepath.Join(in.folder, name), []byte(text), 0o600); err != nil {
		in.t.Fatal(err)
	}
}

func (in *installation) chmod(name string, mode fs.FileMode) {
	in.t.Helper()
	if err := os.Chmod(filepath.Join(in.folder, name), mode); err != nil {
		in.t.Fatal(err)
	}
}

// findings are what a doctor found, one line each with its fix below.
type findings struct {
	text    string
	problem bool // is among them
}

// examine returns what the doctor finds.
func (in *installation) examine() findings {
	in.t.Helper()
	return in.consult(func(d *Doctor) iter.Seq[Finding] { return d.Examine(in.t.Context(), false) })
}

// consult calls a doctor.
func (in *installation) consult(call func(*Doctor) iter.Seq[Finding]) findings {
	in.t.Helper()
	d := New(in.f, func(name string) string { return in.env[name] })
	d.host = in.host
	var got findings
	for f := range call(d) {
		got.text += fmt.Sprintf("%-7s  %-14s %s\n%s\n", f.Level, f.Check, f.Detail, f.Fix)
		got.problem = got.problem || f.Level == Problem
	}
	return got
}

// want checks whether there is a problem, and that these parts are there.
func (f findings) want(t *testing.T, problem bool, parts ...string) {
	t.Helper()
	if f.problem != problem {
		t.Errorf("problem: %v, want %v\n%s", f.problem, problem, f.text)
	}
	for _, part := range parts {
		if !strings.Contains(f.text, part) {
			t.Errorf("no %q in\n%s", part, f.text)
		}
	}
}

func TestGoodInstallation(t *testing.T) {
	newInstallation(t).examine().want(t, false,
		"ok       state folder   ", "ok       socket         ", "ok       machines file  ", "1 machine, 1 slot", "ok       signing key    SHA256:",
		"ok       ACL            ", "lighter-agent for linux/amd64", "the coordinator may open 65536", "ok       machine alpha  up, 0 of 4 slots taken",
		"ok       event hooks    ", "ok       ledger         ")
}

func TestProblems(t *testing.T) {
	other, err := signature.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		breakIt func(in *installation)
		problem string // after the name of the check
		fix     string
	}{
		"open folder":    {func(in *installation) { in.chmod("state", 0o777) }, "state folder   ", "chmod o-w "},
		"open socket":    {func(in *installation) { in.chmod("s", 0o666) }, "socket         ", "chmod o-rwx "},
		"no socket":      {func(in *installation) { in.f.Socket += "x" }, "socket         ", "lighter coordinator"},
		"no real socket": {func(in *installation) { in.f.Socket = filepath.Join(in.folder, "config", "machines.toml") }, "socket         ", "--socket"},
		"old socket":     {func(in *installation) { in.f.Socket = leftBehind(in) }, "socket         ", "lighter coordinator"},
		"open settings":  {func(in *installation) { in.write("config/lighter.toml", ""); in.chmod("config/lighter.toml", 0o666) }, "settings       ", "chmod o-w "},
		"no machines":    {func(in *installation) { in.write("config/machines.toml", "") }, "machines file  ", ""},
		"bad machines":   {func(in *installation) { in.write("config/machines.toml", "[[machine]]\nname = 7\n") }, "machines file  ", "lighter machines check"},
		"no key":         {func(in *installation) { os.Remove(in.f.SigningKey() + ".pub") }, "signing key    ", "lighter key generate"},
		"open key":       {func(in *installation) { in.chmod("config/signing-key.sec", 0o644) }, "signing key    ", "chmod 600 "},
		"another's key":  {func(in *installation) { in.write("config/signing-key.pub", other.Public().String()) }, "signing key    ", "the two files of one key"},
		"bad ACL":        {func(in *installation) { in.write("config/acl", "(acl") }, "ACL            ", "lighter machines authorize"},
		"unknown signer": {func(in *installation) { in.status.Machines[0].PublicKey = other.Public().String() }, "ACL            ", "lighter machines authorize alpha"},
		"no agent": {func(in *installation) {
			os.Remove(filepath.Join(in.folder, "agents", "lighter-agent-linux-amd64"))
			in.machine("riscv64-linux")
		}, "agents         ", "make agents"},
		"full disk": {func(in *installation) {
			in.host.space = func(string) (disk.Space, error) { return disk.Space{Free: 1 << 20, Inodes: -1}, nil }
		}, "disk           ", "make room"},
		"no inodes": {func(in *installation) {
			in.host.space = func(string) (disk.Space, error) { return disk.Space{Free: 1 << 40, Inodes: 12}, nil }
		}, "disk           ", "make room"},
		"no statfs": {func(in *installation) {
			in.host.space = func(string) (disk.Space, error) { return disk.Space{}, errors.New("broken") }
		}, "disk           broken", ""},
		"wrong clock":  {func(in *installation) { in.host.now = func() time.Time { return time.Unix(0, 0) } }, "clock          ", "set the clock"},
		"few files":    {func(in *installation) { in.write("proc/7/limits", "Max open files 10 20 files\n") }, "open files     the coordinator may open 20", "LimitNOFILE"},
		"machine down": {func(in *installation) { in.status.Machines[0].State = "down"; in.status.Machines[0].Error = "evil" }, "machine alpha  it is down: evil", "lighter machines test alpha"},
		"quarantine":   {func(in *installation) { in.status.Machines[0].Quarantined = "evil" }, "machine alpha  it is quarantined: evil", "lighter machines resume alpha"},
		"parked hooks": {func(in *installation) { in.status.HooksParked = 2 }, "event hooks    2 runs", "lighter hooks retry"},
		"refused file": {func(in *installation) { in.status.MachinesFile.Error = "line 3" }, "machines file  the coordinator works", "fix it"},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInstallation(t)
			c.breakIt(in)
			in.examine().want(t, true, "problem  "+c.problem, c.fix)
		})
	}
}

// machine makes the machines file list one for that system.
func (in *installation) machine(system string) {
	in.write("config/machines.toml", "[[machine]]\nname = \"alpha\"\nsystem = \""+system+"\"\nuser = \"offload\"\n")
}

// leftBehind returns a socket on which nothing listens.
func leftBehind(in *installation) string {
	dead := filepath.Join(in.folder, "dead")
	stop := in.serve(dead)
	// Closing a listener removes its socket; another name of it stays.
	kept := filepath.Join(in.folder, "kept")
	if err := os.Link(dead, kept); err != nil {
		in.t.Fatal(err)
	}
	stop()
	return kept
}

func TestNotes(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(in *installation)
		note    string
	}{
		"paused":       {func(in *installation) { in.status.Paused = "evil" }, `coordinator    nothing is placed: evil`},
		"drained":      {func(in *installation) { in.status.Machines[0].Draining = true }, "machine alpha  it is drained"},
		"refuses":      {func(in *installation) { in.status.Machines[0].Refuses = "load" }, "machine alpha  it takes no builds now: load"},
		"skewed":       {func(in *installation) { in.status.Machines[0].ClockSkew = -300 }, "clock          that of alpha differs by 5m00s"},
		"unkept clock": {func(in *installation) { in.host.clockSynced = func() (bool, error) { return false, nil } }, "clock          the kernel says"},
		"little disk": {func(in *installation) {
			in.host.space = func(string) (disk.Space, error) { return disk.Space{Free: 2 << 30, Inodes: -1}, nil }
		}, "disk           "},
		"no ledger":       {func(in *installation) { os.Remove(in.f.Ledger()) }, "ledger         "},
		"no state folder": {func(in *installation) { in.f.State += "x" }, "state folder   "},
		"another's hook":  {func(in *installation) { in.daemon("GUIX=/usr/bin/guix") }, `guix-daemon    process 12 does not offload to lighter (GUIX is "/usr/bin/guix")`},
	} {
		t.Run(name, func(t *testing.T) {
			in := newInstallation(t)
			c.breakIt(in)
			in.examine().want(t, false, "note     "+c.note)
		})
	}
}

// daemon lets a guix-daemon with that environment run.
func (in *installation) daemon(environ string) {
	in.t.Helper()
	if err := os.MkdirAll(filepath.Join(in.folder, "proc", "12"), 0o755); err != nil {
		in.t.Fatal(err)
	}
	in.write("proc/12/comm", "guix-daemon\n")
	in.write("proc/12/environ", "PATH=/bin\x00"+environ+"\x00")
}

func TestBuildHook(t *testing.T) {
	in := newInstallation(t)
	hook := filepath.Join(in.folder, "lighter-guix")
	in.daemon("GUIX=" + hook)
	in.examine().want(t, true, "problem  guix-daemon    process 12 offloads by "+hook+", which is not there")
	in = newInstallation(t)
	hook = filepath.Join(in.folder, "lighter-guix")
	in.write("lighter-guix", "")
	in.daemon("GUIX=" + hook)
	in.examine().want(t, false, "ok       guix-daemon    process 12 offloads by "+hook)
}

func TestPlatforms(t *testing.T) {
	got := platforms([]machines.Machine{
		{Systems: []string{"x86_64-linux", "i686-linux"}},
		{Systems: []string{"aarch64-linux", "armhf-linux"}},
		{Systems: []string{"i686-linux"}},
		{Systems: []string{"x86_64-linux"}},
		{Systems: []string{"riscv64-linux"}, Local: true},
	})
	want := [][2]string{{"linux", "amd64"}, {"linux", "arm64"}, {"linux", "386"}}
	if len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseFileLimit(t *testing.T) {
	for text, want := range map[string]uint64{
		"Max open files            1024                 524288               files\n": 524288,
		"Max open files unlimited unlimited files":                                    1 << 62,
		"Max cpu time 1 2 3":   0,
		"Max open files 1":     0,
		"Max open files a b c": 0,
		strconv.Itoa(1 << 20):  0,
	} {
		if got, ok := parseFileLimit([]byte(text)); got != want || ok != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, ok, want)
		}
	}
}
