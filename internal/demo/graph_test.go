package demo

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"lighter/internal/testkit"
	"lighter/store"
	"lighter/store/derivation"
)

func fakeTree(t *testing.T) *tree {
	t.Helper()
	fsys := fstest.MapFS{
		"go.mod":               {Data: []byte("module lighter\n")},
		".git/hooks/x.go":      {Data: []byte("package no\n")},
		"nar/testdata/no.go":   {Data: []byte("package no\n")},
		"internal/cli/demo.go": {Data: []byte("package cli\n\n// Demo runs.\nfunc Demo() {}\n")},
	}
	for _, p := range []string{"nar", "store", "machines", "scheduler", "nar/signature", "cmd/lighter"} {
		fsys[p+"/a.go"] = &fstest.MapFile{Data: []byte("package a\n\n// Used is used.\ntype Used int\n\nfunc (u Used) String() string { return \"\" }\n")}
		fsys[p+"/a_test.go"] = &fstest.MapFile{Data: []byte("package a\n\nfunc TestUsed(t *testing.T) {\n}\n")}
	}
	tr, err := newTree(fsys, "a fake")
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestNewTreeFindsPackages(t *testing.T) {
	var names []string
	for _, u := range fakeTree(t).units {
		names = append(names, u.name)
	}
	want := "cmd-lighter internal-cli machines nar nar-signature scheduler store"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("units: %s, want %s", got, want)
	}
}

func TestTheDemosOwnSourcesAreEnough(t *testing.T) {
	tr, err := findTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGraph(store.DefaultDir, "x86_64-linux", tr.units, fakeSources(t, tr.units))
	if err != nil {
		t.Fatal(err)
	}
	if len(g.derivations) < 15 {
		t.Errorf("%d derivations, want at least 15", len(g.derivations))
	}
}

func fakeSources(t *testing.T, units []unit) (sources []store.Path) {
	t.Helper()
	for _, u := range units {
		path, err := store.DefaultDir.SourcePath(u.name, store.Hash{})
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, path)
	}
	return sources
}

// TestScriptsWork runs every builder without a store or a sandbox: names of store
// items are names of files in a temporary folder.
func TestScriptsWork(t *testing.T) {
	for _, name := range []string{"/bin/sh", "tar", "gzip", "sha256sum", "awk", "sort", "find", "sed"} {
		testkit.NeedCommand(t, name)
	}
	tr := fakeTree(t)
	sources := fakeSources(t, tr.units)
	g, err := newGraph(store.DefaultDir, "x86_64-linux", tr.units, sources)
	if err != nil {
		t.Fatal(err)
	}
	items := t.TempDir()
	extracted := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(extracted, 0o755); err != nil {
		t.Fatal(err)
	}
	folders, err := tr.extract(extracted)
	if err != nil {
		t.Fatal(err)
	}
	for i, folder := range folders {
		if err := os.Rename(folder, filepath.Join(items, sources[i].Base())); err != nil {
			t.Fatal(err)
		}
	}
	run := &scriptRunner{t: t, graph: g, items: items, done: make(map[store.Path]bool)}
	run.build(g.release)
	if len(run.done) != len(g.derivations) {
		t.Errorf("the release needs %d derivations of %d", len(run.done), len(g.derivations))
	}
	release := run.physical(string(g.derivations[g.release].Outputs[0].Path))
	tarballs, err := fs.Glob(os.DirFS(release), "lighter-*.tar.gz")
	if err != nil || len(tarballs) != 1 {
		t.Fatalf("the release has %q, %v", tarballs, err)
	}
	list, err := exec.Command("tar", "-tzf", filepath.Join(release, tarballs[0])).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/index.html\n", "/STATISTICS\n", "/IDENTIFIERS\n", "/archives/nar-signature.tar.gz\n"} {
		if !strings.Contains(string(list), want) {
			t.Errorf("the release lacks %q:\n%s", want, list)
		}
	}
	summary, err := os.ReadFile(run.physical(outputOf(t, g, "summary")))
	if err != nil {
		t.Fatal(err)
	}
	if want := "total\t13\t64\t"; !strings.Contains(string(summary), want) {
		t.Errorf("the summary lacks %q:\n%s", want, summary)
	}
}

func outputOf(t *testing.T, g *graph, name string) string {
	t.Helper()
	for path, d := range g.derivations {
		if derivation.NameOf(path) == name {
			return string(d.Outputs[0].Path)
		}
	}
	t.Fatalf("no derivation %s", name)
	return ""
}

type scriptRunner struct {
	t     *testing.T
	graph *graph
	items string
	done  map[store.Path]bool
}

func (r *scriptRunner) physical(s string) string {
	return strings.ReplaceAll(s, string(store.DefaultDir)+"/", r.items+"/")
}

func (r *scriptRunner) build(drv store.Path) {
	r.t.Helper()
	if r.done[drv] {
		return
	}
	r.done[drv] = true
	d := r.graph.derivations[drv]
	for _, in := range d.Inputs {
		r.build(in.Path)
	}
	cmd := exec.CommandContext(r.t.Context(), d.Builder, d.Args...)
	cmd.Dir = r.t.TempDir()
	for _, v := range d.Env {
		cmd.Env = append(cmd.Env, v.Name+"="+r.physical(v.Value))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v\n%s", drv.Name(), err, out)
	}
	if _, err := os.Stat(r.physical(string(d.Outputs[0].Path))); err != nil {
		r.t.Errorf("%s made no output", drv.Name())
	}
}
