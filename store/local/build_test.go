package local

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/testkit"
	"lighter/nar"
	"lighter/store"
)

func TestBuild(t *testing.T) {
	needBuilds(t)
	testkit.CheckLeaks(t)
	s := openTestStore(t)
	r := &recipe{name: "hello", script: "echo building; echo hi > $out"}
	var log bytes.Buffer
	req := r.request(t, s)
	req.Log = &log
	result, err := s.Build(t.Context(), req)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if result.AlreadyValid || result.Outputs["out"].Path != r.out("out") || result.Started.IsZero() || result.Stopped.Before(result.Started) {
		t.Errorf("result: %+v", result)
	}
	if got := log.String(); got != "building\n" {
		t.Errorf("log: %q", got)
	}
	if got := keptLog(t, s, r.path); got != "building\n" {
		t.Errorf("kept log: %q", got)
	}
	if got := contents(t, s, r.out("out"), ""); got != "hi\n" {
		t.Errorf("contents: %q", got)
	}
	info, err := s.Info(t.Context(), r.out("out"))
	if err != nil {
		t.Fatal(err)
	}
	name, err := s.PhysicalPath(r.out("out"))
	if err != nil {
		t.Fatal(err)
	}
	hash, size, err := nar.Hash(name)
	if err != nil {
		t.Fatal(err)
	}
	want := &store.Info{Path: r.out("out"), NARHash: hash, NARSize: size, Deriver: r.path, Registered: info.Registered}
	if diff := cmp.Diff(want, info); diff != "" {
		t.Errorf("info (-want +got)\n%s", diff)
	}
	wantClean(t, s)

	again, err := s.Build(t.Context(), r.request(t, s))
	if err != nil || !again.AlreadyValid || again.Outputs["out"].NARHash != hash {
		t.Errorf("second build: %+v, %v", again, err)
	}
}

func keptLog(t *testing.T, s *Store, drv store.Path) string {
	t.Helper()
	f, err := s.OpenLog(drv)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestBuildOutside asks the builder what it sees of the world.
func TestBuildOutside(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	secret, err := s.AddText(t.Context(), "secret", []byte("not an input"), nil)
	if err != nil {
		t.Fatal(err)
	}
	input, err := s.AddText(t.Context(), "input", []byte("an input\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{name: "look", sources: []store.Path{input}, env: map[string]string{"input": string(input), "secret": string(secret), "outside": s.Root()}, script: `
mkdir $out
exec > $out/report
echo "id $(id -u):$(id -g)"
echo "groups $(id -G)"
echo "host $(cat /proc/sys/kernel/hostname) $(cat /proc/sys/kernel/domainname)"
echo "pwd $(pwd)"
echo "umask $(umask)"
echo "input $(cat $input)"
echo "store $(ls /gnu/store | tr '\n' ' ')"
echo "root $(ls / | tr '\n' ' ')"
echo "dev $(ls /dev | grep -v kvm | tr '\n' ' ')"
echo "etc $(ls /etc | tr '\n' ' ')"
echo "passwd $(cat /etc/passwd | tr '\n' ' ')"
echo "hosts $(cat /etc/hosts)"
echo "capabilities $(sed -n 's/^Cap\(Prm\|Eff\|Amb\|Bnd\|Inh\):\t//p' /proc/self/status | sort -u)"
echo "no new privileges $(sed -n 's/^NoNewPrivs:\t//p' /proc/self/status)"
echo "files $(ls /proc/self/fd | wc -l)"
echo "processes $(ls -d /proc/[0-9]* | wc -l)"
echo "interfaces $(sed -n 's/:.*//p' /proc/net/dev | tr -d ' ' | tr '\n' ' ')"
echo "personality $(cat /proc/self/personality)"
echo "core $(ulimit -c)"
[ "$(cat < /dev/stdin)" = "" ] && echo "stdin is empty"
echo to stdout > /dev/stderr
for target in $input /bin/x /usr/x /etc/x /x /proc/sys/kernel/core_pattern /dev/x; do
  (echo x > $target) 2>/dev/null && echo "could write $target"
done
chmod 0644 $input 2>/dev/null && echo "could change the input's mode"
cat $secret 2>/dev/null && echo "saw another item"
ls $outside 2>/dev/null && echo "saw the store's folder"
cat /proc/1/environ >/dev/null 2>&1 && echo "saw the first process"
cat /proc/1/exe >/dev/null 2>&1 && echo "saw the program"
mkdir /dev/shm/x /tmp/x && echo "could write to /tmp and /dev/shm"
echo x > /dev/null && head -c1 /dev/zero > /dev/null && head -c1 /dev/urandom >/dev/null && echo "devices work"
exit 0
`}
	r.mustBuild(t, s)
	ids := "30001:30000"
	want := strings.Join([]string{
		"id " + ids,
		"groups 30000",
		"host localhost (none)",
		"pwd /tmp/guix-build-look.drv-0",
		"umask 0022",
		"input an input",
		"store " + strings.Join(slices.Sorted(slices.Values([]string{input.Base(), r.out("out").Base()})), " ") + " ",
		"root " + strings.Join(rootEntries(), " ") + " ",
		"dev fd full null ptmx pts random shm stderr stdin stdout tty urandom zero ",
		"etc group hosts passwd ",
		"passwd nixbld:x:30001:30000:Nix build user:/:/noshell nobody:x:65534:65534:Nobody:/:/noshell ",
		"hosts 127.0.0.1 localhost",
		"capabilities 0000000000000000",
		"no new privileges 1",
		"files 4", // 0, 1, 2 and the folder that is listed
		"interfaces lo ",
		"personality 00040000",
		"core 0",
		"stdin is empty",
		"could write to /tmp and /dev/shm",
		"devices work",
	}, "\n") + "\n"
	got := contents(t, s, r.out("out"), "report")
	var lines []string
	for line := range strings.Lines(got) {
		switch {
		case strings.HasPrefix(line, "processes "):
			if n := strings.TrimSpace(strings.TrimPrefix(line, "processes ")); len(n) > 1 {
				t.Errorf("the builder sees %s processes", n)
			}
		case strings.HasPrefix(line, "groups 30000"):
			lines = append(lines, "groups 30000\n") // an ordinary user keeps its others
		default:
			lines = append(lines, line)
		}
	}
	if diff := cmp.Diff(want, strings.Join(lines, "")); diff != "" {
		t.Errorf("what the builder sees (-want +got)\n%s", diff)
	}
}

func rootEntries() []string {
	names := []string{"dev", "etc", "gnu", "proc", "tmp"}
	for _, p := range systemPaths() {
		names = append(names, p[1:])
	}
	slices.Sort(names)
	return names
}

func TestBuildEnvironment(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	owners := openWith(t, Options{Root: filepath.Join(scratch(t), "store"), Key: testKey, ACL: testACL, ImpureEnvVars: []string{"LIGHTER_TEST_PROXY"}})
	t.Setenv("LIGHTER_TEST_PROXY", "http://proxy.example")
	t.Setenv("http_proxy", "http://other.example")
	t.Setenv("SSH_AUTH_SOCK", "/secret")
	common := []string{
		"HOME=/homeless-shelter", "NIX_BUILD_CORES=1", "NIX_STORE=/gnu/store", "PATH=/path-not-set",
	}
	for _, tt := range []struct {
		recipe recipe
		want   []string
	}{
		{recipe{name: "plain", env: map[string]string{"impureEnvVars": "LIGHTER_TEST_PROXY", "TMPDIR": "/elsewhere"}}, []string{"impureEnvVars=LIGHTER_TEST_PROXY"}},
		{recipe{name: "own", env: map[string]string{"PATH": "/own", "HOME": "/home"}}, []string{"PATH=/own", "HOME=/home"}},
		{
			recipe{name: "fixed", env: map[string]string{"impureEnvVars": "http_proxy SSH_AUTH_SOCK LIGHTER_TEST_PROXY LANG"}, hash: "sha256 " + strings.Repeat("0", 64)},
			[]string{"http_proxy=http://other.example", "SSH_AUTH_SOCK=", "LIGHTER_TEST_PROXY=", "LANG=" + os.Getenv("LANG"), "impureEnvVars=http_proxy SSH_AUTH_SOCK LIGHTER_TEST_PROXY LANG"},
		},
		{
			recipe{name: "owners", env: map[string]string{"impureEnvVars": "LIGHTER_TEST_PROXY http_proxy LIGHTER_TEST_UNSET"}, hash: "sha256 " + strings.Repeat("0", 64)},
			[]string{"LIGHTER_TEST_PROXY=http://proxy.example", "http_proxy=", "LIGHTER_TEST_UNSET=", "impureEnvVars=LIGHTER_TEST_PROXY http_proxy LIGHTER_TEST_UNSET"},
		},
	} {
		t.Run(tt.recipe.name, func(t *testing.T) {
			r := tt.recipe
			r.script, r.bare = `/usr/bin/env; echo x > $out`, true
			s := s
			if r.name == "owners" {
				s = owners
			}
			var log bytes.Buffer
			req := r.request(t, s)
			req.Log = &log
			if _, err := s.Build(t.Context(), req); (err != nil) != (r.hash != "") {
				t.Fatal(err)
			}
			top := "/tmp/guix-build-" + r.name + ".drv-0"
			want := map[string]string{}
			set := func(list []string) {
				for _, v := range list {
					name, value, _ := strings.Cut(v, "=")
					want[name] = value
				}
			}
			set(common)
			set([]string{"name=" + r.name, "out=" + string(r.out("out"))})
			set(tt.want)
			for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
				want[name] = top
			}
			got := map[string]string{}
			for line := range strings.Lines(log.String()) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				got[name] = value
			}
			delete(got, "_")
			delete(got, "OLDPWD")
			delete(got, "SHLVL")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("environment (-want +got)\n%s", diff)
			}
		})
	}
}

func TestBuildReferences(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	lib := &recipe{name: "lib", script: "mkdir $out; echo $out > $out/self"}
	unused := &recipe{name: "unused", script: "echo unused > $out"}
	lib.mustBuild(t, s)
	unused.mustBuild(t, s)
	both := &recipe{
		name: "both", outputs: []string{"out", "doc"}, inputs: []*recipe{lib, unused},
		script: `mkdir $out; ln -s $lib/self $out/link; ln -s $lib $doc`,
		env:    map[string]string{},
	}
	lib.add(t, s)
	both.env["lib"] = string(lib.out("out"))
	both.script += `; echo "text $doc" > $out/text; touch $out/$(basename $unused | cut -c1-31)` // one character short
	both.env["unused"] = string(unused.out("out"))
	both.mustBuild(t, s)
	for name, want := range map[string][]store.Path{"out": {lib.out("out"), both.out("doc")}, "doc": {lib.out("out")}} {
		info, err := s.Info(t.Context(), both.out(name))
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, info.References); diff != "" {
			t.Errorf("references of %s (-want +got)\n%s", name, diff)
		}
	}
	info, err := s.Info(t.Context(), lib.out("out"))
	if err != nil || len(info.References) != 1 || info.References[0] != lib.out("out") {
		t.Errorf("a reference to itself: %+v, %v", info, err)
	}
	if err := s.Verify(t.Context(), true, func(p store.VerifyProblem) { t.Errorf("%+v", p) }); err != nil {
		t.Error(err)
	}

	// An output that is a symlink can be an input, as the symlink that it is.
	user := &recipe{name: "user", inputs: []*recipe{both}, script: `[ -L $doc ] && cat $doc/self > $out`, env: map[string]string{}}
	user.inputs = nil
	user.sources = []store.Path{both.out("doc")}
	user.env["doc"] = string(both.out("doc"))
	user.mustBuild(t, s)
}

func TestBuildFailures(t *testing.T) {
	t.Parallel()
	needBuilds(t)
	s := openTestStore(t)
	input, err := s.AddText(t.Context(), "input", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		recipe  recipe
		want    store.BuildFailure
		code    int
		message string // a part of it
	}{
		{"exit code", recipe{script: "echo last words; exit 3"}, store.FailedExit, 3, "exit code 3; its last lines were:\nlast words"},
		{"signal", recipe{script: "kill -9 $$"}, store.FailedKilled, 137, "signal 9"},
		{"no output", recipe{script: "true"}, store.FailedOutput, 0, "failed to produce the output path"},
		{"no second output", recipe{script: "echo > $out", outputs: []string{"lib", "out"}}, store.FailedOutput, 0, "-lib"},
		{"fifo", recipe{script: "mkdir $out; mkfifo $out/p"}, store.FailedOutput, 0, "/p: a named pipe"},
		{"top fifo", recipe{script: "mkfifo $out"}, store.FailedOutput, 0, "named pipe"},
		{"world-writable", recipe{script: "echo > $out; chmod 666 $out"}, store.FailedOutput, 0, "suspicious ownership or permission"},
		{"group-writable", recipe{script: "mkdir $out; chmod 775 $out"}, store.FailedOutput, 0, "suspicious ownership or permission"},
		{"deep", recipe{script: "mkdir -p $out" + strings.Repeat("/d", 1100)}, store.FailedOutput, 0, "more than 1024 folders"},
		{"wrong hash", recipe{script: "echo x > $out", hash: "sha256 " + strings.Repeat("0", 64)}, store.FailedHashMismatch, 0, "actual hash:   sha256:"},
		{"wrong recursive hash", recipe{script: "mkdir $out", hash: "r:sha256 " + strings.Repeat("0", 64)}, store.FailedHashMismatch, 0, "hash mismatch"},
		{"executable", recipe{script: "echo x > $out; chmod +x $out", hash: "sha256 " + strings.Repeat("0", 64)}, store.FailedOutput, 0, "non-executable regular file"},
		{"forbidden reference", recipe{script: "echo $input > $out", env: map[string]string{"disallowedReferences": string(input), "input": string(input)}, sources: []store.Path{input}}, store.FailedReferences, 0, "not allowed to refer to"},
		{"not an allowed reference", recipe{script: "echo $input > $out", env: map[string]string{"allowedReferences": "out", "input": string(input)}, sources: []store.Path{input}}, store.FailedReferences, 0, "not allowed to refer to"},
		{"bad rule", recipe{script: "echo > $out", env: map[string]string{"allowedReferences": "what"}}, store.FailedReferences, 0, "neither a store path nor an output"},
		{"cycle", recipe{script: "echo $lib > $out; echo $out > $lib", outputs: []string{"lib", "out"}}, store.FailedReferences, 0, "cycle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.recipe
			r.name = "failing"
			if r.builder != "" {
				r.args = []string{"x"}
			}
			_, err := s.Build(t.Context(), r.request(t, s))
			var failure *store.BuildError
			if !errors.As(err, &failure) {
				t.Fatalf("got %v, want a *store.BuildError", err)
			}
			if failure.Failure != tt.want || failure.ExitCode != tt.code || !strings.Contains(failure.Message, tt.message) || failure.Derivation != r.path {
				t.Errorf("got %+v, want %s, code %d and %q", failure, tt.want, tt.code, tt.message)
			}
			if strings.Contains(failure.Message, s.Root()) {
				t.Errorf("the message has a name from outside: %s", failure.Message)
			}
			for _, o := range r.drv.Outputs {
				if ok, err := s.items.isValid(t.Context(), o.Path); ok || err != nil {
					t.Errorf("%s is valid: %v", o.Path, err)
				}
			}
			wantClean(t, s)
		})
	}
}

// TestBuildMachineErrors has failures that are not the derivation's.
func TestBuildMachineErrors(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	for _, tt := range []struct {
		name    string
		recipe  recipe
		change  func(*store.BuildRequest)
		message string
	}{
		{"other system", recipe{system: "riscv128-linux"}, nil, "it is for riscv128-linux"},
		{"builtin", recipe{builder: "builtin:git-download", hash: "sha256 " + strings.Repeat("0", 64)}, nil, "no builder builtin:git-download"},
		{"sandbox path", recipe{}, func(r *store.BuildRequest) { r.SandboxPaths = []string{"/nowhere/x"} }, `sandbox path "/nowhere/x"`},
		{"sandbox path in the store", recipe{}, func(r *store.BuildRequest) { r.SandboxPaths = []string{"/gnu/store/x=/bin"} }, "the store's own"},
		{"sandbox root", recipe{}, func(r *store.BuildRequest) { r.SandboxPaths = []string{"/=/"} }, "not a clean absolute file name"},
		{"missing input", recipe{}, func(r *store.BuildRequest) {
			r.Inputs = []store.Path{"/gnu/store/00000000000000000000000000000000-missing"}
		}, "not valid"},
		{"wrong text", recipe{}, func(r *store.BuildRequest) { r.Text = []byte("Derive") }, "erivation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.recipe
			r.name, r.script = "failing", "echo > $out"
			req := r.request(t, s)
			if tt.change != nil {
				tt.change(req)
			}
			_, err := s.Build(t.Context(), req)
			var failure *store.BuildError
			if err == nil || errors.As(err, &failure) || !strings.Contains(err.Error(), tt.message) {
				t.Errorf("got %v, want an error with %q that does not blame the derivation", err, tt.message)
			}
			wantClean(t, s)
		})
	}
}

// TestBuildKinds has outputs that are unusual and right.
func TestBuildKinds(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	long := strings.Repeat("n", 255)
	for name, script := range map[string]string{
		"file":         `echo > $out`,
		"empty-folder": `mkdir $out`,
		"symlink":      `ln -s /etc/shadow $out`,
		"dangling":     `mkdir $out; ln -s ../../../../etc/passwd $out/up; ln -s nowhere $out/down`,
		"setuid":       `mkdir $out; cp /bin/sh $out/sh; chmod 6755 $out/sh; chmod 1755 $out`,
		"unreadable":   `mkdir -p $out/closed; echo x > $out/closed/f; chmod 000 $out/closed/f $out/closed; echo y > $out/f; chmod 000 $out/f`,
		"long":         `mkdir $out; echo x > $out/` + long,
		"bytes":        `mkdir $out; printf x > "$out/$(printf 'caf\351')"`,
		"read-only":    `mkdir -p $out/a/b; chmod 555 $out/a/b $out/a $out`,
		"hard-link":    `mkdir $out; echo x > $out/a; ln $out/a $out/b`,
		"replaced":     `mkdir $out; rmdir $out; mkdir ${out}x; echo x > ${out}x/f; mv ${out}x $out`,
		"leftover":     `echo x > $out; mkdir ${out}-more; echo y > ${out}-more/f; mkdir -p deep/er; chmod 000 deep`,
	} {
		t.Run(name, func(t *testing.T) {
			r := &recipe{name: name, script: script}
			r.mustBuild(t, s)
			top, err := s.PhysicalPath(r.out("out"))
			if err != nil {
				t.Fatal(err)
			}
			wantCanonical(t, top)
			wantClean(t, s)
		})
	}
	if err := s.Verify(t.Context(), true, func(p store.VerifyProblem) { t.Errorf("%+v", p) }); err != nil {
		t.Error(err)
	}
	// What is read-only goes as well.
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{}); err != nil {
		t.Error(err)
	}
	wantClean(t, s)
	if names, err := readNames(s.layout.data("")); err != nil || len(names) > 0 {
		t.Errorf("left after the collection: %q, %v", names, err)
	}
}

// wantCanonical checks owner, modes and times of a tree.
func wantCanonical(t *testing.T, top string) {
	t.Helper()
	err := filepath.WalkDir(top, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		mode := info.Mode()
		if mode&os.ModeSymlink == 0 && mode.Perm() != 0o444 && mode.Perm() != 0o555 || mode&(os.ModeSetuid|os.ModeSetgid|os.ModeSticky) != 0 {
			t.Errorf("%s has mode %v", name, mode)
		}
		if info.ModTime().Unix() != 1 {
			t.Errorf("%s has time %v", name, info.ModTime())
		}
		if int(st.Uid) != os.Geteuid() {
			t.Errorf("%s belongs to %d", name, st.Uid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBuildFixed(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	digest := func(h interface {
		Write([]byte) (int, error)
		Sum([]byte) []byte
	},
	) string {
		h.Write([]byte("hi\n"))
		return hex.EncodeToString(h.Sum(nil))
	}
	for _, algorithm := range []string{"md5", "sha1", "sha256", "sha512", "sha3-256", "sha3-512", "blake2s-256"} {
		t.Run(algorithm, func(t *testing.T) {
			f := &fixedHash{algorithm: algorithm}
			h, err := f.newHash()
			if err != nil {
				t.Fatal(err)
			}
			r := &recipe{name: "flat-" + algorithm, script: "echo hi > $out", hash: algorithm + " " + digest(h)}
			r.mustBuild(t, s)
		})
	}
	t.Run("recursive", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "x")
		if err := os.MkdirAll(filepath.Join(folder, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
		h, _, err := nar.Hash(folder)
		if err != nil {
			t.Fatal(err)
		}
		r := &recipe{name: "recursive", script: "mkdir -p $out/a", hash: "r:sha256 " + h.Base16()}
		r.mustBuild(t, s)
	})
}

func TestBuildTimeouts(t *testing.T) {
	needBuilds(t)
	testkit.CheckLeaks(t)
	s := openTestStore(t)
	for _, tt := range []struct {
		name   string
		script string
		change func(*store.BuildRequest)
		want   store.BuildFailure
	}{
		{"timeout", "while :; do echo busy; sleep 0.01; done", func(r *store.BuildRequest) { r.Timeout = 200 * time.Millisecond }, store.FailedTimeout},
		{"silence", "echo start; sleep 1000", func(r *store.BuildRequest) { r.MaxSilentTime = 200 * time.Millisecond }, store.FailedSilence},
		{"closed log", "exec >&- 2>&-; sleep 1000", func(r *store.BuildRequest) { r.Timeout = 200 * time.Millisecond }, store.FailedTimeout},
		// What is left to do with the output takes a quarter of an hour.
		{"huge output", "truncate -s 1T $out", func(r *store.BuildRequest) { r.Timeout = 500 * time.Millisecond }, store.FailedTimeout},
		{"silence is the builder's", "mkdir $out; truncate -s 1T $out/x", func(r *store.BuildRequest) {
			r.Timeout, r.MaxSilentTime = time.Second, 500*time.Millisecond
		}, store.FailedTimeout},
		{"fixed and huge", "truncate -s 1T $out", func(r *store.BuildRequest) { r.Timeout = 500 * time.Millisecond }, store.FailedTimeout},
		{"huge output of a check", "truncate -s 1T $out", func(r *store.BuildRequest) { r.Timeout, r.Check = 500*time.Millisecond, true }, store.FailedTimeout},
		{"ignored signals", "trap '' TERM HUP INT; (trap '' TERM; sleep 1000) & while :; do sleep 1000; done", func(r *store.BuildRequest) { r.Timeout = 200 * time.Millisecond }, store.FailedTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &recipe{name: "slow", script: tt.script}
			if strings.HasPrefix(tt.name, "fixed") {
				r.hash = "sha256 " + strings.Repeat("0", 64)
			}
			req := r.request(t, s)
			tt.change(req)
			_, err := s.Build(t.Context(), req)
			var failure *store.BuildError
			if !errors.As(err, &failure) || failure.Failure != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			wantClean(t, s)
		})
	}
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := &recipe{name: "canceled", script: "echo started; sleep 1000"}
		req := r.request(t, s)
		req.Log = writerFunc(func([]byte) { cancel() })
		if _, err := s.Build(ctx, req); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		wantClean(t, s)
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// TestBuildDaemons shows that nothing of a build is left when it has ended, however it
// tries.
func TestBuildDaemons(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	mark := fmt.Sprintf("10%d", os.Getpid()) // seconds of sleep that no other process sleeps
	r := &recipe{name: "daemons", script: `
for i in 1 2 3; do setsid sh -c 'trap "" TERM; sleep ` + mark + `' & done
(setsid sleep ` + mark + ` > /dev/null 2>&1 < /dev/null &)
echo done > $out`}
	r.mustBuild(t, s)
	if got := sleepers(t, mark); len(got) > 0 {
		t.Errorf("still there: %q", got)
	}
}

// sleepers returns the processes that have an argument.
func sleepers(t *testing.T, arg string) (pids []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		text, _ := os.ReadFile(name)
		if slices.Contains(strings.Split(string(text), "\x00"), arg) {
			pids = append(pids, name)
		}
	}
	return pids
}

func TestBuildForkBomb(t *testing.T) {
	needBuilds(t)
	s := openWith(t, Options{Root: filepath.Join(scratch(t), "store"), MaxProcesses: 200})
	r := &recipe{name: "bomb", script: `bomb() { bomb | bomb & }; bomb; sleep 1000`}
	req := r.request(t, s)
	req.Timeout = time.Second
	_, err := s.Build(t.Context(), req)
	var failure *store.BuildError
	if !errors.As(err, &failure) {
		t.Errorf("got %v, want a *store.BuildError", err)
	}
	wantClean(t, s)
}

func TestBuildLargeLog(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "chatty", script: `yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c 100000000; echo; echo > $out`}
	req := r.request(t, s)
	var size int64
	req.Log = writerFunc(func(p []byte) { size += int64(len(p)) })
	if _, err := s.Build(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	const want = 100000001
	f, err := s.OpenLog(r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	kept, err := io.Copy(io.Discard, f)
	if err != nil || size != want || kept != want {
		t.Errorf("%d bytes were written, %d kept, want %d: %v", size, kept, want, err)
	}
}

// TestBuildLogWhileRunning reads the log of a running build.
func TestBuildLogWhileRunning(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "running", script: `echo one; sleep 1000`}
	req := r.request(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	req.Log = writerFunc(func([]byte) {
		if got := keptLog(t, s, r.path); got != "one\n" {
			t.Errorf("log: %q", got)
		}
		cancel()
	})
	if _, err := s.Build(ctx, req); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBuildKeepFailed(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	for range 2 {
		r := &recipe{name: "kept", script: `echo evidence > file; exit 1`}
		req := r.request(t, s)
		req.KeepFailed = true
		_, err := s.Build(t.Context(), req)
		var failure *store.BuildError
		if !errors.As(err, &failure) || failure.KeptIn == "" {
			t.Fatalf("got %v, want a *store.BuildError with KeptIn", err)
		}
		if text, err := os.ReadFile(filepath.Join(failure.KeptIn, "file")); err != nil || string(text) != "evidence\n" {
			t.Errorf("kept: %q, %v", text, err)
		}
	}
	wantClean(t, s)
}

func TestBuildReferencesGraph(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	leaf, err := s.AddText(t.Context(), "leaf", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	top, err := s.AddText(t.Context(), "top", []byte("y"), []store.Path{leaf})
	if err != nil {
		t.Fatal(err)
	}
	r := &recipe{name: "graph", script: "cat graph > $out", env: map[string]string{"exportReferencesGraph": "graph " + string(top)}, sources: []store.Path{top}}
	r.mustBuild(t, s)
	paths := []store.Path{leaf, top}
	slices.Sort(paths)
	var want strings.Builder
	for _, p := range paths {
		if p == top {
			fmt.Fprintf(&want, "%s\n\n1\n%s\n", top, leaf)
		} else {
			fmt.Fprintf(&want, "%s\n\n0\n", leaf)
		}
	}
	if diff := cmp.Diff(want.String(), contents(t, s, r.out("out"), "")); diff != "" {
		t.Errorf("graph (-want +got)\n%s", diff)
	}
}

func TestBuildSandboxPaths(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "tool"), []byte("tool\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &recipe{name: "paths", script: `cat /opt/tools/tool /etc/tool /opt/tools/sub/tool > $out; ! echo x > /opt/tools/new; ! echo x > /etc/tool`}
	req := r.request(t, s)
	req.SandboxPaths = append(req.SandboxPaths, "/opt/tools/sub="+host, "/opt/tools="+host, "/etc/tool="+host+"/tool")
	if _, err := s.Build(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, s, r.out("out"), ""); got != "tool\ntool\ntool\n" {
		t.Errorf("got %q", got)
	}
	if names, err := readNames(host); err != nil || len(names) != 2 {
		t.Errorf("outside there is now %q, %v", names, err)
	}
}

func TestBuild32Bit(t *testing.T) {
	needBuilds(t)
	systems := machineSystems()
	if len(systems) < 2 {
		testkit.Missing(t, errors.New("this machine has but one system"))
	}
	s := openTestStore(t)
	r := &recipe{name: "small", system: systems[1], script: "uname -m > $out"}
	r.mustBuild(t, s)
	if got := contents(t, s, r.out("out"), ""); got == "x86_64\n" || got == "aarch64\n" {
		t.Errorf("uname says %q", got)
	}
}

// TestBuildOnce starts the same build several times.
func TestBuildOnce(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "once", script: "head -c 16 /dev/urandom | od > $out; sleep 0.2"}
	r.add(t, s)
	req := r.request(t, s)
	results := make(chan *store.BuildResult)
	for range 4 {
		go func() {
			result, err := s.Build(t.Context(), req)
			if err != nil {
				t.Error(err)
			}
			results <- result
		}()
	}
	hashes := make(map[store.Hash]bool)
	for range 4 {
		if result := <-results; result != nil {
			hashes[result.Outputs["out"].NARHash] = true
		}
	}
	if len(hashes) != 1 {
		t.Errorf("%d different results", len(hashes))
	}
}

// TestBuildPartly builds a derivation of which one output is there.
func TestBuildPartly(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	r := &recipe{name: "two", outputs: []string{"lib", "out"}, script: "head -c 16 /dev/urandom | od > $out; head -c 16 /dev/urandom | od > $lib"}
	r.mustBuild(t, s)
	old := contents(t, s, r.out("out"), "")
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: []store.Path{r.out("lib")}}); err != nil {
		t.Fatal(err)
	}
	r.mustBuild(t, s)
	if got := contents(t, s, r.out("out"), ""); got != old {
		t.Error("a valid output was replaced")
	}
	contents(t, s, r.out("lib"), "")
	wantClean(t, s)
}

func TestBuildProblem(t *testing.T) {
	needBuilds(t)
	s := openTestStore(t)
	if err := s.BuildProblem(); err != nil {
		t.Error(err)
	}
	wantClean(t, s)
}

// TestOrdinaryUser runs the package's tests as a user without privileges, if this one
// has some.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this is one")
	}
	if testing.Short() {
		t.Skip("it takes as long as all the other tests")
	}
	t.Parallel()
	folder := scratch(t)
	if err := os.Chmod(folder, 0o1777); err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.timeout=10m", "-test.skip=^TestAccomplice$"} // TestAccompliceOfOrdinaryUser runs it
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	out, err := runSelf(t, folder, []string{"TMPDIR=" + folder}, &syscall.Credential{Uid: 54321, Gid: 54321}, args...)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func BenchmarkTrivialBuild(b *testing.B) {
	needBuilds(b)
	s := openTestStore(b)
	n := 0
	for b.Loop() {
		n++
		r := &recipe{name: "hello", script: "echo hi > $out", env: map[string]string{"n": fmt.Sprint(n)}}
		r.mustBuild(b, s)
	}
}
