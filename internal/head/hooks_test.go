package head

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/hooks"
	"lighter/internal/settings"
	"lighter/machines"
)

// newHookMaker is for a head with a store and keys of its own.
func newHookMaker(t *testing.T) *hookMaker {
	t.Helper()
	dir := t.TempDir()
	f := Folders{State: filepath.Join(dir, "state"), Config: filepath.Join(dir, "config"), StoreKind: machines.StoreLocal}
	for _, folder := range []string{f.State, f.Config} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	head, err := OpenStore(t.Context(), f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := head.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &hookMaker{folders: f, head: head, logger: slog.New(slog.DiscardHandler), home: dir}
	t.Cleanup(m.close)
	return m
}

func (m *hookMaker) read(t *testing.T, text string) ([]hooks.Config, []error) {
	t.Helper()
	if err := os.WriteFile(m.folders.SettingsFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := m.folders.LoadSettings()
	if err != nil {
		t.Fatal(err)
	}
	return m.configure(s)
}

func hookText(name, more string) string {
	return "[[hook]]\nname = \"" + name + "\"\nevents = [\"build-succeeded\"]\n" + more + "\n"
}

func TestBuiltInHooks(t *testing.T) {
	m := newHookMaker(t)
	list, err := m.read(t, `[publish]
folder = "`+filepath.ToSlash(filepath.Join(m.home, "published"))+`"
`+hookText("publish", `built-in = "publish"`)+
		hookText("mirror", `built-in = "mirror"
options = { host = "mirror.example", user = "lighter", folder = "/srv/substitutes", port = 2222, outputs-only = true }`)+
		hookText("tidy", `built-in = "prune-logs"
options = { older-than = "7d", compress = "zstd" }`)+
		hookText("service", `built-in = "build-events"
options = { url = "https://data.example", build-server = "2", token = "secret" }`)+
		hookText("own", `command = ["true"]`))
	if len(err) > 0 {
		t.Fatal(err)
	}
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
		if (c.Runner != nil) != (c.BuiltIn != "") {
			t.Errorf("hook %s: built in %q, runner %v", c.Name, c.BuiltIn, c.Runner)
		}
	}
	if want := []string{"publish", "mirror", "tidy", "service", "own"}; !slices.Equal(names, want) {
		t.Errorf("hooks %q, want %q", names, want)
	}
}

func TestBadBuiltInHooks(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{`built-in = "publish"`, "[publish] names, and it names none"},
		{`built-in = "mirror"`, "has no option host"},
		{"built-in = \"mirror\"\noptions = { host = \"a\", user = \"b\", folder = \"c\", prot = 22 }", `unknown option "prot"`},
		{"built-in = \"prune-logs\"\noptions = { compress = \"lzma\" }", "lzma"},
		{`built-in = "build-events"`, "want one such as"},
	} {
		m := newHookMaker(t)
		list, problems := m.read(t, hookText("h", test.text)+hookText("good", `command = ["true"]`))
		if len(problems) != 1 || !strings.Contains(problems[0].Error(), test.want) || !strings.Contains(problems[0].Error(), "lighter.toml:") {
			t.Errorf("%s: got %v, want %q and its place", test.text, problems, test.want)
		}
		if len(list) != 2 || list[0].Problem != problems[0].Error() || list[1].Problem != "" {
			t.Errorf("%s: the hooks are %+v", test.text, list)
		}
	}
}

// Two packages have the names of the events, since neither sees the other.
func TestEventNames(t *testing.T) {
	if got, want := settings.Events(), hooks.EventNames(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("lighter.toml knows the events %q, hooks %q", got, want)
	}
}
