package webtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lighter/internal/api"
	"lighter/internal/api/apiclient"
	"lighter/internal/testkit"
	"lighter/internal/testkit/farm"
	"lighter/store"

	"github.com/google/uuid"
)

// site is a farm with its page. Its builds have all kinds of ends, and some go on.
type site struct {
	*farm.Farm
	client *apiclient.Client
	url    string // of the page, without a path
	builds map[string]*api.Build
}

const (
	// evilTag and evilText are of somebody who wants readers to run or see something else.
	evilTag  = `<b>&"'><script>document.title="owned"</script>`
	evilText = `<script>document.title="owned"</script><img src="http://elsewhere.example/x.png" onerror="document.title='owned'">`
	// title is the farm's.
	title = "the farm"
	// failingLine is the line of a log at which its build failed.
	failingLine = "error: in phase 'check': uncaught exception:"
)

var theSite = sync.OnceValues(func() (*site, error) {
	dir, err := folder()
	if err != nil {
		return nil, err
	}
	program, err := programIn(dir)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	s := &site{builds: make(map[string]*api.Build)}
	if s.Farm, err = farm.New(ctx, dir, program); err != nil {
		return nil, err
	}
	atEnd(s.Stop)
	s.client = apiclient.NewClient(s.Socket())
	for _, step := range []func(context.Context) error{s.start, s.submit, s.startPage, s.settle} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
})

// programIn puts this test's program into a folder under the name of lighter. A symbolic link would not do: agents
// are started by the name that the kernel tells.
func programIn(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "lighter")
	if os.Link(self, program) == nil {
		return program, nil
	}
	return program, exec.Command("cp", self, program).Run()
}

func needSite(t *testing.T) *site {
	t.Helper()
	testkit.NeedUserNamespaces(t)
	needBrowser(t)
	s, err := theSite()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start has one machine that builds, and two that never answer.
func (s *site) start(ctx context.Context) error {
	file := fmt.Sprintf(`[[machine]]
name = "alpha"
local = true
parallel-builds = 3
overload-threshold = false
state-directory = %q
systems = [%q]
sandbox-paths = ["%s"]
`, filepath.Join(s.Folder, "alpha"), farm.System(), strings.Join(farm.SandboxPaths(), `", "`))
	for name, systems := range map[string]string{"beta": farm.System() + `", "i686-linux`, "star": "riscv64-linux"} {
		file += fmt.Sprintf(`[[machine]]
name = %q
host = "127.0.0.1"
port = 9
user = "nobody"
host-key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbbh6z0v8nBmPyYVZFqv8uoKCrZ4wT1gGyd2r9wNYBF"
systems = ["%s"]
`, name, systems)
	}
	return s.Start(ctx, []byte(file))
}

// recipes are the builds, inputs first.
var recipes = []struct {
	name, system, script string
	inputs               []string
}{
	{name: "hello-2.12.1", script: "echo building; echo hi > $out"},
	{name: "libfoo-1.4", script: `for i in 1 2 3; do echo "[ $i%] compiling foo$i.c"; done; mkdir $out`},
	{name: "python-broken-0.9", script: `printf '\033[1;32mstarting phase check\033[0m\n'; i=0; while [ $i -lt 700 ]; do i=$((i+1)); echo "line $i of the tests: ok"; done
echo 'test_core.py::test_sum FAILED'; printf '\033[31m%s\033[0m\n' "` + failingLine + `"; echo "phase 'check' failed after 2.1 seconds"; echo 'after the error'; exit 1`},
	{name: "python-user-1.0", script: "mkdir $out", inputs: []string{"python-broken-0.9"}},
	{name: "python-app-3.1", script: "mkdir $out", inputs: []string{"python-user-1.0", "libfoo-1.4"}},
	{name: "evil-1.0", script: `printf '%s\n\033]0;owned\007\033[2J\033[5;5Hmoved\n\342\200\256reversed\n\377\376bytes\n' '` + strings.ReplaceAll(evilText, "'", `'\''`) + `'; exit 3`},
	{name: "hello-riscv-2.12", system: "riscv64-linux", script: "mkdir $out"},
	{name: "slow-tool-7.7", script: `i=0; while true; do i=$((i+1)); echo "tick $i"; sleep 1; done`},
}

func (s *site) submit(ctx context.Context) error {
	paths := make(map[string]store.Path)
	for _, r := range recipes {
		var inputs []store.Path
		for _, name := range r.inputs {
			inputs = append(inputs, paths[name])
		}
		path, err := s.Add(ctx, farm.Recipe{Name: r.name, System: r.system, Script: r.script, Inputs: inputs})
		if err != nil {
			return err
		}
		paths[r.name] = path
		tags := map[string]string{"channel": "guix", "evil": evilTag, "package": strings.Split(r.name, "-")[0]}
		if err := s.ask(ctx, r.name, api.Request{Derivation: path, Tags: tags, Retries: -1}); err != nil {
			return err
		}
	}
	return nil
}

// ask submits a build, to be found by its name.
func (s *site) ask(ctx context.Context, name string, r api.Request) error {
	r.ID = uuid.NewString()
	b, err := s.client.Submit(ctx, r)
	if err != nil {
		return fmt.Errorf("submit %s: %w", name, err)
	}
	s.builds[name] = b
	return nil
}

// startPage starts "lighter web".
func (s *site) startPage(ctx context.Context) error {
	text, err := s.LaunchUntil(s.Lighter(ctx, "web", "--listen", "127.0.0.1:0", "--title", title), "\n")
	s.url = strings.TrimSuffix(strings.TrimSpace(string(text)), "/")
	return err
}

// settle waits until builds are in those states in which tests want them.
func (s *site) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	for name, want := range map[string]api.State{
		"hello-2.12.1": api.Succeeded, "libfoo-1.4": api.Succeeded, "python-broken-0.9": api.Failed,
		"python-app-3.1": api.DependencyFailed, "evil-1.0": api.Failed, "slow-tool-7.7": api.Building,
	} {
		if err := s.awaitState(ctx, s.builds[name].ID, want); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

var errThere = errors.New("it is in that state")

func (s *site) awaitState(ctx context.Context, id string, want api.State) error {
	err := s.client.Follow(ctx, 1, func(e *api.Event) error {
		if e.State == want {
			return errThere
		}
		if e.State.Final() {
			return fmt.Errorf("it ends as %s, want %s: %s", e.State, want, e.Reason)
		}
		return nil
	}, id)
	if errors.Is(err, errThere) {
		return nil
	}
	return err
}
