package settings

import (
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const home = "/home/alice"

// plain compares what a person said, not where.
var plain = cmpopts.IgnoreUnexported(Hook{})

func parse(t *testing.T, text string) *Settings {
	t.Helper()
	s, err := Parse("lighter.toml", []byte(text), home)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestExample(t *testing.T) {
	const file = "../../examples/lighter.toml"
	got, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Coordinator.Timeout, want.Coordinator.MaxSilentTime = 24*time.Hour, time.Hour
	want.Coordinator.DerivationSubstituteURLs = []string{"https://bordeaux.guix.gnu.org"}
	want.Access = Access{SubmitGroup: "lighter", OperateGroup: "lighter-ops", OperateUsers: []string{"alice"}, MaxPriority: 100}
	want.Shares.Weights = map[string]float64{"alice": 3, "tag:nightly": 0.5, "*": 1}
	want.Head.Store = storeLocal
	want.Ledger.PruneAfter = 90 * 24 * time.Hour
	want.Publish = Publish{Folder: "/srv/lighter/publish", Key: "/etc/lighter/publish.sec", Compression: "zstd", Level: 9}
	want.Web.URL = "https://lighter.example.org"
	hook := Hook{Timeout: 5 * time.Minute, Tries: 8}
	publish, notify, last, tidy := hook, hook, hook, hook
	publish.Name, publish.Events, publish.BuiltIn = "publish", []string{BuildSucceeded}, BuiltInPublish
	publish.Parallel, publish.Tags = 2, map[string]string{"publish": ""}
	notify.Name, notify.Events = "notify", []string{BuildFailed, BuildTimedOut, MachineLost}
	notify.Command, notify.Timeout = []string{"/usr/local/bin/notify", "--to", "alice"}, time.Minute
	notify.Parallel = 1
	last.Name, last.Events = "last-event", []string{MachineBack}
	last.Command = []string{"/bin/sh", "-c", "cat > /run/lighter/last-event.json"}
	tidy.Name, tidy.Events, tidy.BuiltIn = "tidy", []string{BuildSucceeded, BuildFailed}, BuiltInPruneLogs
	tidy.Options = map[string]any{"older-than": "30d"}
	want.Hooks = []Hook{publish, notify, last, tidy}
	if diff := cmp.Diff(want, got, plain); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, sec := range sections(Default()) {
		for _, f := range sec.fields {
			if !strings.Contains(string(text), "\n"+f.key+" = ") {
				t.Errorf("the example lacks %s of [%s]", f.key, sec.name)
			}
			if !strings.Contains(string(doc), "| `"+f.key+"` |") {
				t.Errorf("docs/settings.md lacks %s of [%s]", f.key, sec.name)
			}
		}
	}
	for _, word := range append(Events(), builtInNames...) {
		if !strings.Contains(string(doc), "`"+word+"`") {
			t.Errorf("docs/settings.md lacks %s", word)
		}
	}
}

func TestEmptyFileIsDefault(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "hook = []", "[coordinator]\n[publish]\n"} {
		if diff := cmp.Diff(Default(), parse(t, text), plain); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lighter.toml")
	if s, err := Load(file); err != nil || s.Coordinator.MaxAttempts != 10 {
		t.Errorf("absent file: got %+v, %v", s, err)
	}
	if err := os.WriteFile(file, []byte("[log]\nlevel = \"debug\"\nformat = \"json\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(file); err != nil || s.Log != (Log{Level: slog.LevelDebug, Format: FormatJSON}) {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := os.WriteFile(file, []byte("[log]\nlevel = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var wrong *Error
	if _, err := Load(file); !errors.As(err, &wrong) || wrong.File != file || wrong.Line != 2 || wrong.Column != 9 {
		t.Errorf("bad file: got %v", err)
	}
	if _, err := Load(filepath.Dir(file)); err == nil || errors.As(err, &wrong) && wrong == nil {
		t.Errorf("a folder: got %v", err)
	}
	if _, err := Load(filepath.Join(file, "x")); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below a file: got %v", err)
	}
}

func TestValues(t *testing.T) {
	s := parse(t, `
coordinator = { machine-lost-after = 0, quarantine-after = 0, idle-alarm = "0s", max-log = 4096 }
[publish]
folder = "~/published"
compression = "none"
level = 0
[[hook]]
name = "a"
events = ["build-started"]
command = ["~/bin/a", "", "x", "x", "several\nlines"]
tags = { keep = "", branch = "master" }
[[hook]]
name = "b"
events = ["machine-lost", "machine-back"]
command = """
set -e
true"""
[[hook]]
name = "c"
events = ["build-failed"]
command = ["program-in-path"]
`)
	if c := s.Coordinator; c.MachineLostAfter != 0 || c.QuarantineAfter != 0 || c.IdleAlarm != 0 || c.MaxLog != 4096 {
		t.Errorf("coordinator: %+v", c)
	}
	if s.Publish.Folder != home+"/published" || s.Publish.Compression != CompressNone {
		t.Errorf("publish: %+v", s.Publish)
	}
	want := [][]string{
		{home + "/bin/a", "", "x", "x", "several\nlines"},
		{"/bin/sh", "-c", "set -e\ntrue"},
		{"program-in-path"},
	}
	for i, h := range s.Hooks {
		if diff := cmp.Diff(want[i], h.Command); diff != "" {
			t.Errorf("command of %s (-want +got):\n%s", h.Name, diff)
		}
	}
	if diff := cmp.Diff(map[string]string{"keep": "", "branch": "master"}, s.Hooks[0].Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	const file = "testdata/bad.txtar"
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for _, f := range archive.Files {
		if name, ok := strings.CutSuffix(f.Name, ".golden"); ok {
			want[name] = string(f.Data)
		}
	}
	out := &txtar.Archive{Comment: archive.Comment}
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, ".toml")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s, err := Parse(f.Name, f.Data, home)
			if err == nil {
				t.Fatalf("accepted: %+v", s)
			}
			text := err.Error() + "\n"
			out.Files = append(out.Files, f, txtar.File{Name: name + ".golden", Data: []byte(text)})
			if diff := cmp.Diff(want[name], text); diff != "" && !*update {
				t.Errorf("%s (-want +got):\n%s", f.Name, diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHomeThatIsNotKnown(t *testing.T) {
	_, err := Parse("lighter.toml", []byte("[publish]\nfolder = \"~/x\"\n"), "")
	if err == nil || !strings.HasPrefix(err.Error(), "lighter.toml:2:10: folder: \"~/x\" is not an absolute file name") {
		t.Errorf("got %v", err)
	}
}

const withOptions = `[[hook]]
name = "m"
events = ["build-succeeded"]
built-in = "mirror"
[hook.options]
host = "mirror.example.org"
port = 2222
verify = true
keep = "30d"
mode = "fast"
`

func TestOptions(t *testing.T) {
	h := &parse(t, withOptions).Hooks[0]
	o := h.ReadOptions()
	got := []any{
		o.Text("host", ""), o.Integer("port", 22, 1, 65535), o.Boolean("verify", false), o.Duration("keep", 0, 0),
		o.Choice("mode", "slow", "slow", "fast"),
		o.Text("name", "lighter"), o.Integer("tries", 3, 1, 9), o.Boolean("quiet", true), o.Duration("pause", time.Second, 0),
		o.Choice("how", "so", "so"),
	}
	want := []any{
		"mirror.example.org", 2222, true, 30 * 24 * time.Hour, "fast",
		"lighter", 3, true, time.Second, "so",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	if err := o.Err(); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	h := &parse(t, withOptions).Hooks[0]
	o := h.ReadOptions()
	o.Integer("host", 0, 0, 1)
	o.Integer("port", 22, 1, 1024)
	o.Boolean("keep", false)
	o.Duration("keep", 0, 31*24*time.Hour)
	o.Text("verify", "")
	o.Choice("mode", "", "slow", "faster")
	o.Errorf("usr", "add it", "there is no user")
	err := o.Err()
	var all Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, e := range all {
		first, _, _ := strings.Cut(e.Error(), "\n")
		got = append(got, first)
	}
	want := []string{
		"lighter.toml:1:1: there is no user",
		`lighter.toml:6:8: host is a string; want a whole number`,
		`lighter.toml:7:8: port is 2222; want a number from 1 to 1024`,
		`lighter.toml:8:10: verify is true; want a string`,
		`lighter.toml:9:8: keep is a string; want true or false`,
		`lighter.toml:9:8: keep is "30d"; want 31d or more`,
		`lighter.toml:10:8: unknown mode "fast"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestUnknownOption(t *testing.T) {
	h := &parse(t, "[[hook]]\nname = \"m\"\nevents = [\"build-failed\"]\nbuilt-in = \"mirror\"\noptions = { hots = \"a\" }\n").Hooks[0]
	o := h.ReadOptions()
	o.Text("host", "")
	if got := o.Err(); got == nil || !strings.HasPrefix(got.Error(), "lighter.toml:5:13: unknown option \"hots\"\n") || !strings.Contains(got.Error(), `did you mean "host"?`) {
		t.Errorf("got %v", got)
	}
	if got := h.ReadOptions().Err(); got == nil || !strings.Contains(got.Error(), "the hook mirror has no options") {
		t.Errorf("got %v", got)
	}
}

func TestOptionError(t *testing.T) {
	h := &parse(t, withOptions).Hooks[0]
	var e *Error
	if err := h.OptionError("host", "a name", "no such host %q", "x"); !errors.As(err, &e) || e.Line != 6 || e.Column != 8 || e.Hint != "a name" || e.Message != `no such host "x"` {
		t.Errorf("got %v", err)
	}
	made := &Hook{Name: "made"} // from no file
	if err := made.OptionError("host", "", "no host"); err == nil || err.Error() != "hook made:1:1: no host" {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"../../examples/lighter.toml", "testdata/bad.txtar"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(withOptions))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("fuzz.toml", data, home)
		if err != nil {
			if errs, ok := err.(Errors); !ok || len(errs) == 0 || err.Error() == "" { //nolint:errorlint // must be just that
				t.Fatalf("unexpected error %#v", err)
			}
			return
		}
		for i := range s.Hooks {
			h := &s.Hooks[i]
			if h.Name == "" || len(h.Events) == 0 || (len(h.Command) == 0) == (h.BuiltIn == "") || h.Timeout <= 0 {
				t.Fatalf("accepted the hook %+v", h)
			}
			_ = h.ReadOptions().Err()
		}
	})
}
