package local

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
	"lighter/store/derivation"
)

func TestMain(m *testing.M) {
	MaybeRunBuilder()
	if os.Getenv(memberVariable) != "" {
		os.Exit(runMember())
	}
	if name := os.Getenv(attackVariable); name != "" {
		os.Exit(runAttack(name))
	}
	if os.Getenv(accompliceVariable) != "" {
		os.Exit(runAccomplice())
	}
	testkit.InMemory()
	os.Exit(m.Run())
}

// systemPaths are what a test's builder gets from the machine: a shell, and what it
// needs.
func systemPaths() []string {
	var paths []string
	for _, p := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(p); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// testKey is the key of all stores of a test run.
var testKey = func() *signature.PrivateKey {
	key, err := signature.GenerateKey()
	if err != nil {
		panic(err)
	}
	return key
}()

func testACL() (*signature.ACL, error) {
	acl := new(signature.ACL)
	acl.Add(testKey.Public())
	return acl, nil
}

func openTestStore(t testing.TB) *Store {
	t.Helper()
	return openAt(t, filepath.Join(scratch(t), "store"))
}

// scratch is a folder like t.TempDir's, whose removal copes with what is in a store,
// and whose parents everyone may enter.
func scratch(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "lighter-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nar.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	return folder
}

func openAt(t testing.TB, root string) *Store {
	t.Helper()
	return openWith(t, Options{Root: root, Key: testKey, ACL: testACL})
}

func openWith(t testing.TB, opts Options) *Store {
	t.Helper()
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// recipe is a derivation in the making.
type recipe struct {
	name    string
	script  string // for /bin/sh
	system  string
	env     map[string]string
	outputs []string // "out" if empty
	hash    string   // of a fixed output: "algorithm:base16"
	sources []store.Path
	inputs  []*recipe

	bare    bool   // without a PATH
	builder string // instead of the script
	args    []string

	path store.Path // once it was added
	drv  *derivation.Derivation
}

// add adds the derivation to a store, with those it has as inputs.
func (r *recipe) add(t testing.TB, s *Store) store.Path {
	t.Helper()
	if r.path != "" {
		return r.path
	}
	d := &derivation.Derivation{System: r.system, Builder: "/bin/sh", Args: []string{"-e", "-c", r.script}, Sources: r.sources}
	if d.System == "" {
		d.System = machineSystems()[0]
	}
	if r.builder != "" {
		d.Builder, d.Args = r.builder, r.args
	}
	env := map[string]string{"name": r.name, "PATH": "/usr/bin:/bin"}
	if r.bare {
		delete(env, "PATH")
	}
	for name, value := range r.env {
		env[name] = value
	}
	for _, in := range r.inputs {
		d.Inputs = append(d.Inputs, derivation.Input{Path: in.add(t, s), Outputs: []string{"out"}})
	}
	if len(r.outputs) == 0 {
		r.outputs = []string{"out"}
	}
	for _, name := range r.outputs {
		o := derivation.Output{Name: name}
		if r.hash != "" {
			algorithm, digest, _ := strings.Cut(r.hash, " ")
			o.HashAlgorithm, o.Hash = algorithm, digest
		}
		d.Outputs = append(d.Outputs, o)
		env[name] = ""
	}
	for name, value := range env {
		d.Env = append(d.Env, derivation.EnvVar{Name: name, Value: value})
	}
	known := make(map[store.Path]*derivation.Derivation)
	for _, in := range r.inputs {
		in.collect(known)
	}
	resolve := func(p store.Path) (*derivation.Derivation, error) {
		if known[p] == nil {
			return nil, store.NotValid(p)
		}
		return known[p], nil
	}
	if err := d.Fill(s.Dir(), r.name, resolve); err != nil {
		t.Fatal(err)
	}
	path, err := s.AddText(t.Context(), r.name+".drv", d.Marshal(), d.References())
	if err != nil {
		t.Fatal(err)
	}
	r.path, r.drv = path, d
	return path
}

func (r *recipe) collect(known map[store.Path]*derivation.Derivation) {
	known[r.path] = r.drv
	for _, in := range r.inputs {
		in.collect(known)
	}
}

// out returns the path of an output, once the recipe was added.
func (r *recipe) out(name string) store.Path {
	o, _ := r.drv.Output(name)
	return o.Path
}

// request returns a request to build the recipe, with the machine's own programs.
func (r *recipe) request(t testing.TB, s *Store) *store.BuildRequest {
	return &store.BuildRequest{Derivation: r.add(t, s), SandboxPaths: systemPaths(), Cores: 1}
}

// mustBuild builds the recipe, and returns the log.
func (r *recipe) mustBuild(t testing.TB, s *Store) string {
	t.Helper()
	var log bytes.Buffer
	req := r.request(t, s)
	req.Log = &log
	if _, err := s.Build(t.Context(), req); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return log.String()
}

// contents returns the contents of a file in an item.
func contents(t testing.TB, s *Store, item store.Path, file string) string {
	t.Helper()
	name, err := s.PhysicalPath(item)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(name, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wantClean checks that nothing unfinished is in a store's folder.
func wantClean(t testing.TB, s *Store) {
	t.Helper()
	for _, folder := range []string{s.layout.builds(), s.layout.trash(), s.layout.tmpOf(s.claims.owner)} {
		names, err := readNames(folder)
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		slices.Sort(names)
		if len(names) > 0 {
			t.Errorf("left in %s: %q", folder, names)
		}
	}
}

func needBuilds(t testing.TB) {
	t.Helper()
	testkit.NeedUserNamespaces(t)
	testkit.NeedCommand(t, "sh")
}
