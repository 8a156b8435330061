package head

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/machines"
)

// coordinatorAt answers on a socket where it has its things.
func coordinatorAt(t *testing.T, socket string, there *api.Installation) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/installation", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(there) })
	server := &http.Server{Handler: mux}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
}

func variables(v map[string]string) func(string) string {
	return func(name string) string { return v[name] }
}

// TestFind has a coordinator that was started with folders that nobody would guess.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	there := Folders{
		State: at("state"), Config: at("config"), Socket: at("state/coordinator.sock"), StoreKind: machines.StoreDaemon,
		Guix: at("guix"), DaemonSocket: at("daemon"), Machines: at("mine.toml"), Agents: at("agents"),
	}
	for _, folder := range []string{there.State, there.Config, there.Guix} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	coordinatorAt(t, there.Socket, there.Installation())
	guixless := map[string]string{"GUIX_DAEMON_SOCKET": at("none"), "HOME": dir}
	with := func(more map[string]string) map[string]string {
		for k, v := range guixless {
			more[k] = v
		}
		return more
	}
	other := Folders{State: at("other"), Config: at("config"), Socket: at("other/coordinator.sock"), StoreKind: machines.StoreLocal, DaemonSocket: at("none"), Guix: "/etc/guix"}
	for name, c := range map[string]struct {
		said Said
		env  map[string]string
		want Folders
	}{
		"a state folder":        {Said{State: there.State}, guixless, there},
		"a socket":              {Said{Socket: there.Socket}, guixless, there},
		"a socket, environment": {Said{}, with(map[string]string{"LIGHTER_SOCKET": there.Socket}), there},
		"all, environment":      {Said{}, with(map[string]string{"LIGHTER_STATE": there.State, "LIGHTER_CONFIG": there.Config, "LIGHTER_STORE": machines.StoreDaemon}), there},
		"another store": {Said{State: there.State, StoreKind: machines.StoreLocal}, guixless, Folders{
			State: there.State, Config: there.Config, Socket: there.Socket, StoreKind: machines.StoreLocal, Guix: there.Guix, DaemonSocket: there.DaemonSocket, Agents: there.Agents,
		}},
		"other folders": {Said{State: at("other"), Config: at("config")}, guixless, other},
	} {
		got, err := Find(t.Context(), c.said, variables(c.env))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := Find(t.Context(), Said{StoreKind: "nix"}, variables(guixless)); err == nil {
		t.Error("a kind of store that is not there is taken")
	}
	if got := hint(there.Socket, variables(guixless)); got != "--socket "+there.Socket+" " {
		t.Errorf("hint %q", got)
	}
}

// TestFindWhatWasLeft has a coordinator that does not run.
func TestFindWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	there := Folders{State: dir, Config: filepath.Join(dir, "config"), StoreKind: machines.StoreDaemon, Guix: filepath.Join(dir, "guix"), Socket: filepath.Join(dir, "s")}
	if err := there.leave(there.Installation()); err != nil {
		t.Fatal(err)
	}
	env := variables(map[string]string{"GUIX_DAEMON_SOCKET": filepath.Join(dir, "none"), "HOME": dir})
	got, err := Find(t.Context(), Said{State: dir}, env)
	if err != nil || got.StoreKind != there.StoreKind || got.Config != there.Config || got.Guix != there.Guix {
		t.Errorf("got %+v, %v", got, err)
	}
	// The next coordinator keeps the kind of store, but takes over no folders.
	got, err = ToStart(t.Context(), Said{State: dir, Config: filepath.Join(dir, "new")}, env)
	if err != nil || got.StoreKind != machines.StoreDaemon || got.Config != filepath.Join(dir, "new") {
		t.Errorf("to start: got %+v, %v", got, err)
	}
	if os.Geteuid() != 0 {
		return
	}
	// Root believes another user's coordinator no folder that this user could write to.
	if err := os.Mkdir(there.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(there.Config, 1, 1); err != nil {
		t.Fatal(err)
	}
	if got, err = Find(t.Context(), Said{State: dir}, env); err != nil || got.Config == there.Config {
		t.Errorf("root works in %s, %v", got.Config, err)
	}
}

// TestChooseStore is about a head of which nobody says which store it has.
func TestChooseStore(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "guix")
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]struct {
		file, text string // in the state folder's config or store
		socket     string
		want, why  string
	}{
		"guix-daemon answers":       {socket: socket, want: machines.StoreDaemon, why: "guix-daemon answers, and nothing says --store=local"},
		"no guix-daemon":            {socket: filepath.Join(dir, "none"), want: machines.StoreLocal},
		"the settings say":          {file: "lighter.toml", text: "[head]\nstore = \"local\"\n", socket: socket, want: machines.StoreLocal},
		"the settings say Guix":     {file: "lighter.toml", text: "[head]\nstore = \"guix-daemon\"\n", socket: "/none", want: machines.StoreDaemon},
		"there are items":           {file: "store/info/x.json", socket: socket, want: machines.StoreLocal, why: "there are items in STATE/store"},
		"the last coordinator says": {file: "installation.json", text: `{"storeKind":"guix-daemon"}`, socket: "/none", want: machines.StoreDaemon},
		"damaged":                   {file: "installation.json", text: `{"storeKind":"gu`, socket: "/none", want: machines.StoreLocal},
	} {
		state := t.TempDir()
		if c.file != "" {
			file := filepath.Join(state, c.file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ToStart(t.Context(), Said{State: state, Config: state, DaemonSocket: c.socket}, variables(nil))
		if err != nil || got.StoreKind != c.want || c.why != "" && got.StoreWhy != strings.ReplaceAll(c.why, "STATE", state) {
			t.Errorf("%s: got %q because %q, %v; want %q because %q", name, got.StoreKind, got.StoreWhy, err, c.want, c.why)
		}
	}
}
