package head

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/settings"
)

// TestWhatCannotBeCarriedOut has settings of which a part can't be carried out. The rest is, and
// what the errors say helps.
func TestWhatCannotBeCarriedOut(t *testing.T) {
	m := newHookMaker(t)
	set := settings.Default()
	set.Access = settings.Access{SubmitGroup: "no-such-group", OperateGroup: "no-such-group", OperateUsers: []string{"no-such-user", "root"}}
	access, group, problems := accessOf(&set.Access, "lighter.toml")
	if len(problems) != 3 || group != nobody || len(access.Groups) != 0 || !slices.Equal(access.Users, []uint32{0}) {
		t.Errorf("access %+v for the group %d, %v", access, group, problems)
	}

	key := filepath.Join(m.home, "missing.sec")
	published := "[publish]\nfolder = \"" + m.home + "/published\"\nkey = \"" + key + "\"\n"
	hooks := hookText("publish", `built-in = "publish"`) + hookText("tell", `command = ["true"]`)
	list, problems := m.read(t, published+hooks)
	if len(problems) != 1 || len(list) != 2 || list[0].Problem == "" || list[1].Problem != "" {
		t.Errorf("a key is missing: %v, %+v", problems, list)
	}
	m.adopt(problems)
	if got := m.wrong(); len(got) != 1 || !strings.Contains(got[0], "missing.sec") {
		t.Errorf("it is said that %q", got)
	}
	if _, problems = m.read(t, strings.Replace(published, "missing.sec", "there.sec", 1)+hooks); len(problems) != 1 {
		t.Errorf("another key is missing: %v", problems)
	}
	if list, problems = m.read(t, hookText("tell", `command = ["true"]`)); len(list) != 1 || len(problems) != 0 {
		t.Errorf("all is well: %v, %+v", problems, list)
	}
	m.adopt(problems)
	if got := m.wrong(); len(got) != 0 {
		t.Errorf("it is still said that %q", got)
	}

	program := filepath.Join(m.home, "later")
	if _, problems = m.read(t, hookText("tell", `command = ["`+program+`"]`)); len(problems) != 0 {
		t.Errorf("the program is missing still: %v", problems)
	}
	m.adopt(problems)
	if got := m.wrong(); len(got) != 1 || !strings.Contains(got[0], program) {
		t.Errorf("while the program is missing it is said that %q", got)
	}
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := m.wrong(); len(got) != 0 {
		t.Errorf("the program is there, and it is said that %q", got)
	}

	set = settings.Default()
	set.Hooks = []settings.Hook{{Name: "tell", Events: []string{"build-failed"}, Command: []string{"no-such-program"}}}
	if got := m.folders.SettingsProblems(set, os.Getenv); len(got) != 1 || !strings.Contains(got[0].Error(), "hook tell") {
		t.Errorf("a program is missing: %v", got)
	}
}

// TestSocketOfNobody has a socket whose group is not known: only its owner may connect.
func TestSocketOfNobody(t *testing.T) {
	name := filepath.Join(t.TempDir(), "s")
	s, err := Listen(name, nobody, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mode := func() os.FileMode {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if mode() != 0o600 {
		t.Errorf("mode %o", mode())
	}
	if err := s.regroup(-1); err != nil || mode() != 0o660 {
		t.Errorf("mode %o once the group is known, %v", mode(), err)
	}
}
