//go:build guixlab

package guixlab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/api"
	"lighter/store"
	"lighter/store/daemon"
)

func TestOneBuild(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("one"), Script: "echo hello from the builder; echo result > $out"})
	text := f.build(string(drv))
	contains(t, text, "hello from the builder")
	f.content(f.Output(drv, "out"), "result\n")
	b := f.awaitState(drv, api.Succeeded)
	if b.Machine != "builder1" || !b.Offload {
		t.Errorf("it was built on %q, offloaded %v", b.Machine, b.Offload)
	}
	info, err := f.Store.Info(t.Context(), f.Output(drv, "out"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Deriver != drv {
		t.Errorf("its deriver is %q, want %s", info.Deriver, drv)
	}
	// The agent does not keep what guix-daemon has.
	await(t, func() string {
		return f.agentHas("builder1", b)
	})
}

func TestManyBuilds(t *testing.T) {
	f := newFarm(t, entry("builder1"), entry("builder2"))
	const n = 200
	args := make([]string, n)
	outputs := make([]store.Path, n)
	for i := range n {
		drv := f.add(Recipe{Name: unique("many"), Script: fmt.Sprintf("echo %d > $out", i)})
		args[i], outputs[i] = string(drv), f.Output(drv, "out")
	}
	f.build(args...)
	used := make(map[string]int)
	for i, p := range outputs {
		f.content(p, fmt.Sprintf("%d\n", i))
		used[f.awaitState(store.Path(args[i]), api.Succeeded).Machine]++
	}
	if used["builder1"] == 0 || used["builder2"] == 0 || used["builder1"]+used["builder2"] != n {
		t.Errorf("built on %v", used)
	}
}

func TestGraph(t *testing.T) {
	f := newFarm(t, entry("builder1"), entry("builder2"))
	const layers, width = 15, 21
	rng := rand.New(rand.NewPCG(1, 2))
	var last, all []store.Path
	want := make(map[store.Path]string)
	for layer := range layers {
		var these []store.Path
		for i := range width {
			var inputs []store.Path
			script, content := fmt.Sprintf("(echo %d.%d", layer, i), fmt.Sprintf("%d.%d\n", layer, i)
			for _, j := range rng.Perm(len(last))[:min(len(last), 1+rng.IntN(3))] {
				inputs = append(inputs, last[j])
				out := f.Output(last[j], "out")
				script += fmt.Sprintf("; echo %s; cat %s", out, out)
				content += string(out) + "\n" + want[last[j]]
			}
			// The contents of a deep node are cut, so that they do not grow without end.
			if len(content) > 4096 {
				script, content = fmt.Sprintf("(echo cut %d.%d", layer, i), fmt.Sprintf("cut %d.%d\n", layer, i)
				for _, in := range inputs {
					script += "; echo " + string(f.Output(in, "out"))
					content += string(f.Output(in, "out")) + "\n"
				}
			}
			drv := f.add(Recipe{Name: unique("node"), Inputs: inputs, Script: script + ") > $out"})
			want[drv] = content
			these, all = append(these, drv), append(all, drv)
		}
		last = these
	}
	args := make([]string, len(all))
	for i, drv := range all {
		args[i] = string(drv) // also those that no other needs
	}
	f.build(args...)
	for _, drv := range all {
		out := f.Output(drv, "out")
		f.content(out, want[drv])
		info, err := f.Store.Info(t.Context(), out)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range info.References {
			if !strings.Contains(want[drv], string(ref)) {
				t.Errorf("%s refers to %s", out, ref)
			}
		}
	}
	t.Logf("%d derivations were built", len(all))
}

func TestBuildFails(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("fails"), Script: "echo before the end; exit 3"})
	text := f.buildFails(string(drv))
	contains(t, text, "before the end", "failed", string(drv))
	f.absent(f.Output(drv, "out"))
	b := f.awaitState(drv, api.Failed)
	if b.Failure.ExitCode != 3 || b.Attempt != 1 {
		t.Errorf("failure %+v in attempt %d", b.Failure, b.Attempt)
	}
	// guix-daemon itself says the same, but for the words of the offloading.
	local := f.guix("build", "--no-offload", "--max-jobs=1", string(drv))
	if code := local.code(); code != 1 {
		t.Errorf("without offloading the exit code is %d", code)
	}
}

func TestTimeout(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("slow"), Script: "while true; do echo tick; sleep 0.2; done"})
	began := time.Now()
	text := f.buildFails("--timeout=2", string(drv))
	contains(t, text, "tick", "timed out")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	f.nothingRuns("builder1", drv)
}

func TestSilence(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("silent"), Script: "echo the last words; sleep 3600"})
	text := f.buildFails("--max-silent-time=2", string(drv))
	contains(t, text, "the last words", "silence")
	f.nothingRuns("builder1", drv)
}

// runs returns the processes of a derivation's builder on a machine, as files in /proc.
func (f *farm) runs(machine string, drv store.Path) string {
	f.t.Helper()
	return f.on(machine, "grep -lz "+filepath.Base(string(f.Output(drv, "out")))+" /proc/[0-9]*/environ 2>/dev/null; true")
}

// nothingRuns waits until no builder of a derivation runs on a machine.
func (f *farm) nothingRuns(machine string, drv store.Path) {
	f.t.Helper()
	await(f.t, func() string { return f.runs(machine, drv) })
}

// somethingRuns waits until the builder of a derivation runs. guix-daemon kills all processes of the build's user
// when its client hangs up, and then waits for the builder: one that is not that user yet runs to its end.
func (f *farm) somethingRuns(machine string, drv store.Path) {
	f.t.Helper()
	await(f.t, func() string {
		if f.runs(machine, drv) == "" {
			return "the builder does not run"
		}
		return ""
	})
}

// agentHas returns the files in which the agent on a machine has a build.
func (f *farm) agentHas(machine string, b *api.Build) string {
	f.t.Helper()
	return f.on(machine, "find /home/offload -name '"+b.ID+".status'")
}

func TestWrongHash(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	hash := sha256.Sum256([]byte("what was promised\n"))
	drv := f.add(Recipe{
		Name: unique("fixed"), Script: "echo something else > $out",
		HashAlgorithm: "sha256", Hash: hex.EncodeToString(hash[:]),
	})
	text := f.buildFails(string(drv))
	contains(t, text, "hash mismatch")
	f.absent(f.Output(drv, "out"))

	good := f.add(Recipe{
		Name: unique("fixed"), Script: "echo what was promised > $out",
		HashAlgorithm: "sha256", Hash: hex.EncodeToString(hash[:]),
	})
	f.build(string(good))
	f.content(f.Output(good, "out"), "what was promised\n")
}

func TestOutputs(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{
		Name: unique("several"), Outputs: []string{"doc", "lib", "out"},
		Script: "echo lib > $lib; (echo doc; echo $lib) > $doc; mkdir $out; ln -s $doc $out/doc; echo x > $out/x",
	})
	f.build(string(drv))
	lib, doc, out := f.Output(drv, "lib"), f.Output(drv, "doc"), f.Output(drv, "out")
	f.content(lib, "lib\n")
	f.content(doc, "doc\n"+string(lib)+"\n")
	if target, err := os.Readlink(string(out) + "/doc"); err != nil || target != string(doc) {
		t.Errorf("out/doc is %q (%v)", target, err)
	}
	info, err := f.Store.Info(t.Context(), doc)
	if err != nil || len(info.References) != 1 || info.References[0] != lib {
		t.Errorf("doc refers to %v (%v)", info.References, err)
	}
}

func TestFeatures(t *testing.T) {
	f := newFarm(t, entry("builder1"), entry("builder2", `features = ["big"]`))
	for range 3 {
		drv := f.add(Recipe{Name: unique("big"), Script: "echo > $out", Env: map[string]string{"requiredSystemFeatures": "big"}})
		f.build(string(drv))
		if b := f.awaitState(drv, api.Succeeded); b.Machine != "builder2" {
			t.Errorf("built on %s", b.Machine)
		}
	}
	// What no machine has is built locally, and the user is told why.
	drv := f.add(Recipe{Name: unique("huge"), Script: "echo > $out", Env: map[string]string{"requiredSystemFeatures": "huge"}})
	text := f.build("--max-jobs=1", string(drv))
	contains(t, text, "is not offloaded: no machine can take it")
	if b := f.buildOf(drv); b != nil {
		t.Errorf("the coordinator had it: %+v", b)
	}
	other := f.add(Recipe{Name: unique("other"), Script: "echo > $out", System: "riscv64-linux"})
	text = f.build("--max-jobs=1", string(other)) // which is a shell script for the head, too
	contains(t, text, "none builds for riscv64-linux")
}

func TestCheck(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("reproducible"), Script: "echo same > $out"})
	f.build(string(drv))
	f.build("--check", "--max-jobs=1", string(drv))
	odd := f.add(Recipe{Name: unique("odd"), Script: "cat /proc/sys/kernel/random/uuid > $out"})
	f.build(string(odd))
	contains(t, f.buildFails("--check", "--max-jobs=1", string(odd)), "may not be deterministic")
}

func TestKeepFailed(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("kept"), Script: "echo a trace > trace; exit 1"})
	// guix itself does not offload what is to be kept, so that it is kept here.
	text := f.buildFails("--keep-failed", "--max-jobs=1", string(drv))
	contains(t, text, "keeping build directory")
	_, rest, _ := strings.Cut(text, "keeping build directory `")
	kept, _, _ := strings.Cut(rest, "'")
	traces, _ := filepath.Glob(kept + "/trace")
	below, _ := filepath.Glob(kept + "/*/trace")
	if traces = append(traces, below...); len(traces) != 1 {
		t.Errorf("%s has %v", kept, traces)
	}
	if kept != "" {
		os.RemoveAll(kept)
	}
	if b := f.buildOf(drv); b != nil {
		t.Errorf("it was offloaded: %+v", b)
	}
}

func TestNoOffload(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("here"), Script: "echo here > $out"})
	f.build("--no-offload", "--max-jobs=1", string(drv))
	f.content(f.Output(drv, "out"), "here\n")
	if b := f.buildOf(drv); b != nil {
		t.Errorf("it was offloaded: %+v", b)
	}
}

func TestPreferLocalBuild(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("local"), Script: "echo here > $out", Env: map[string]string{"preferLocalBuild": "1"}})
	f.build("--max-jobs=1", string(drv))
	if b := f.buildOf(drv); b != nil {
		t.Errorf("it was offloaded: %+v", b)
	}
}

// A free slot of guix-daemon's own is used when all of the machines' are taken.
func TestWantsLocal(t *testing.T) {
	f := newFarm(t, strings.Replace(entry("builder1"), "parallel-builds = 4", "parallel-builds = 1", 1))
	long := f.add(Recipe{Name: unique("long"), Script: "while [ ! -e /nowhere ]; do sleep 0.1; done"})
	first := f.guix("build", string(long))
	f.awaitState(long, api.Building)
	drv := f.add(Recipe{Name: unique("short"), Script: "echo here > $out"})
	text := f.build("--max-jobs=1", string(drv))
	contains(t, text, "all slots are taken")
	if b := f.buildOf(drv); b != nil {
		t.Errorf("it was offloaded: %+v", b)
	}
	interrupt(first)
}

func interrupt(r *run) {
	r.t.Helper()
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	if code := r.code(); code == 0 {
		r.t.Errorf("guix succeeded although it was interrupted:\n%s", r.text.String())
	}
}

func TestInterrupt(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("endless"), Script: "echo begun; sleep 3600"})
	r := f.guix("build", string(drv))
	b := f.awaitState(drv, api.Building)
	await(t, func() string {
		switch {
		case f.runs("builder1", drv) == "":
			return "the builder did not start"
		case f.agentHas("builder1", b) == "":
			return "the agent has nothing of the build"
		}
		return ""
	})
	interrupt(r)
	f.awaitState(drv, api.Canceled)
	f.nothingRuns("builder1", drv)
	await(t, func() string { return f.agentHas("builder1", b) })
	f.absent(f.Output(drv, "out"))
}

func TestDaemonRestarted(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("restart"), Script: "echo begun; sleep 3600"})
	r := f.guix("build", string(drv))
	f.awaitState(drv, api.Building)
	f.somethingRuns("builder1", drv)
	if err := RestartDaemon([]string{"GUIX=" + Programs + "/lighter-guix", "LIGHTER_SOCKET=" + f.socket}, "--max-jobs=0"); err != nil {
		t.Fatal(err)
	}
	if code := r.code(); code == 0 {
		t.Errorf("guix build succeeded without its daemon:\n%s", r.text.String())
	}
	f.awaitState(drv, api.Canceled)
	f.nothingRuns("builder1", drv)
	next := f.add(Recipe{Name: unique("after"), Script: "echo after > $out"})
	f.build(string(next))
	f.content(f.Output(next, "out"), "after\n")
}

func TestCoordinatorKilled(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("survivor"), Script: "for i in $(seq 30); do echo line $i; sleep 0.1; done; echo done > $out"})
	r := f.guix("build", string(drv))
	f.awaitState(drv, api.Building)
	time.Sleep(300 * time.Millisecond)
	f.kill()
	time.Sleep(500 * time.Millisecond)
	f.start()
	if code := r.code(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, r.text.String())
	}
	text := r.text.String()
	contains(t, text, "the coordinator is gone", "the coordinator is back")
	for i := 1; i <= 30; i++ {
		if n := strings.Count(text, fmt.Sprintf("line %d\n", i)); n != 1 {
			t.Errorf("line %d is there %d times", i, n)
		}
	}
	f.content(f.Output(drv, "out"), "done\n")
	if b := f.awaitState(drv, api.Succeeded); b.Attempt != 1 {
		t.Errorf("it took %d attempts", b.Attempt)
	}
}

func TestNoCoordinator(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	f.stop()
	drv := f.add(Recipe{Name: unique("alone"), Script: "echo alone > $out"})
	text := f.build("--max-jobs=1", string(drv))
	contains(t, text, "no coordinator answers", "is not offloaded")
	f.content(f.Output(drv, "out"), "alone\n")
}

// bigSource is a file of random bytes in the head's store.
func (f *farm) bigSource(mib int) store.Path {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "big")
	script := fmt.Sprintf("dd if=/dev/urandom of=%s bs=1M count=%d status=none", file, mib)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	p, err := f.AddTree(f.t.Context(), unique("big"), file)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func TestSSHKilledInTransfer(t *testing.T) {
	f := newFarm(t, entry("builder1", "speed = 8.0"), entry("builder2"))
	big := f.bigSource(300)
	drv := f.add(Recipe{Name: unique("copy"), Sources: []store.Path{big}, Script: "cp " + string(big) + " $out"})
	r := f.guix("build", string(drv))
	b := f.awaitState(drv, api.Sending)
	m := Machine{b.Machine}
	if err := m.KillSSH(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It stays away, so that the build has to go elsewhere.
	t.Cleanup(func() {
		if err := m.StartSSH(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if code := r.code(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, r.text.String())
	}
	done := f.awaitState(drv, api.Succeeded)
	if done.Machine == b.Machine || done.Attempt < 2 {
		t.Errorf("built on %s in attempt %d", done.Machine, done.Attempt)
	}
	same(t, string(big), string(f.Output(drv, "out")))
}

func same(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
		t.Errorf("cmp: %v: %s", err, out)
	}
}

func TestDiskFull(t *testing.T) {
	f := newFarm(t, entry("builder1", "speed = 8.0", `min-free-disk = "1 MiB"`), entry("builder2"))
	// builder1's store gets a disk of 64 MiB, with what it had.
	f.on("builder1", "mount -t tmpfs -o size=64M,mode=1775 tmpfs /mnt && chgrp guixbuild /mnt && (test -d /gnu/store/.links || mkdir /gnu/store/.links); cp -a /gnu/store/. /mnt/ && mount --move /mnt /gnu/store")
	t.Cleanup(func() { f.on("builder1", "umount -l /gnu/store") })
	big := f.bigSource(100)
	drv := f.add(Recipe{Name: unique("input"), Sources: []store.Path{big}, Script: "cp " + string(big) + " $out"})
	f.build(string(drv))
	if b := f.awaitState(drv, api.Succeeded); b.Machine != "builder2" {
		t.Errorf("the build with a big input ran on %s", b.Machine)
	}
	drv = f.add(Recipe{Name: unique("output"), Script: "dd if=/dev/zero of=$out bs=1048576 count=100"})
	f.build(string(drv))
	if b := f.awaitState(drv, api.Succeeded); b.Machine != "builder2" {
		t.Errorf("the build with a big output ran on %s", b.Machine)
	}
}

func TestKeyNotAuthorized(t *testing.T) {
	// Neither a machine that does not take what the head signs, nor one whose signatures
	// the head does not take, gets builds.
	f := newFarm(t, entry("builder1"), entry("builder2"))
	f.on("builder1", "cp /etc/guix/acl /etc/guix/acl.saved; echo '(acl)' > /etc/guix/acl")
	t.Cleanup(func() { f.on("builder1", "mv /etc/guix/acl.saved /etc/guix/acl") })
	for range 3 {
		drv := f.add(Recipe{Name: unique("far"), Script: "echo > $out"})
		f.build(string(drv))
		if b := f.awaitState(drv, api.Succeeded); b.Machine != "builder2" {
			t.Errorf("built on %s", b.Machine)
		}
	}
}

func TestMachineNotTrusted(t *testing.T) {
	restoreACL(t)
	f := newFarm(t, entry("builder1"))
	if err := os.WriteFile("/etc/guix/acl", []byte("(acl)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The coordinator does not know yet; the hook refuses, and nothing is left.
	drv := f.add(Recipe{Name: unique("near"), Script: "echo > $out"})
	r := f.guix("build", string(drv))
	await(t, func() string {
		b := f.buildOf(drv)
		if b == nil || b.Failure == nil {
			return "nothing was refused"
		}
		contains(t, b.Failure.Message, "unauthorized key")
		return ""
	})
	f.absent(f.Output(drv, "out"))
	interrupt(r)
	f.absent(f.Output(drv, "out"))
}

func TestSameOutputs(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	dep := f.add(Recipe{Name: unique("dep"), Script: "echo dep > $out"})
	drv := f.add(Recipe{
		Name: unique("same"), Inputs: []store.Path{dep},
		Script: "mkdir -p $out/d; echo " + string(f.Output(dep, "out")) + " > $out/d/ref; ln -s ../x $out/d/link; echo '#!/bin/sh' > $out/run; /bin/true 2>/dev/null; env > $out/env; pwd >> $out/env",
	})
	f.build(string(drv))
	out := f.Output(drv, "out")
	first, err := f.Store.Info(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	env, _ := os.ReadFile(string(out) + "/env")
	if r := f.guix("gc", "--delete", string(out)); r.code() != 0 {
		t.Fatal(r.text.String())
	}
	f.Head.Close()
	f.stop()

	g := newFarmAuthorized(t, entry("plain"))
	g.drvs = f.drvs
	g.build(string(drv))
	if b := g.awaitState(drv, api.Succeeded); b.Machine != "plain" {
		t.Errorf("built on %s", b.Machine)
	}
	second, err := g.Store.Info(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	if first.NARHash != second.NARHash {
		other, _ := os.ReadFile(string(out) + "/env")
		t.Errorf("guix-daemon made %s, the embedded store %s; they differ in:\n%s", first.NARHash, second.NARHash, cmp.Diff(string(env), string(other)))
	}
}

func TestDuplicates(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("twice"), Script: "sleep 1; echo > $out"})
	a, b := f.guix("build", string(drv)), f.guix("build", string(drv))
	if a.code() != 0 || b.code() != 0 {
		t.Fatalf("%s\n%s", a.text.String(), b.text.String())
	}
	list, err := f.client.Builds(t.Context(), filterOf(drv))
	if err != nil || len(list.Builds) != 1 {
		t.Errorf("%d builds (%v)", len(list.Builds), err)
	}
}

// A second guix-daemon for the same store, as another user may run one.
func TestTwoDaemons(t *testing.T) {
	f := newFarm(t, entry("builder1"), entry("builder2"))
	socket := filepath.Join(t.TempDir(), "second")
	second := exec.Command("guix-daemon", "--build-users-group=guixbuild", "--no-substitutes", "--max-jobs=0", "--listen="+socket)
	second.Env = append(os.Environ(), "GUIX="+Programs+"/lighter-guix", "LIGHTER_SOCKET="+f.socket)
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = second.Process.Kill()
		_ = second.Wait()
	})
	await(t, func() string {
		if _, err := os.Stat(socket); err != nil {
			return err.Error()
		}
		return ""
	})
	var runs []*run
	var drvs []store.Path
	for range 10 {
		drv := f.add(Recipe{Name: unique("two"), Script: "sleep 0.2; echo two > $out"})
		drvs = append(drvs, drv)
		runs = append(runs, f.guix("build", string(drv)))
		other := f.add(Recipe{Name: unique("two"), Script: "sleep 0.2; echo two > $out"})
		drvs = append(drvs, other)
		cmd := exec.Command("guix", "build", string(other), string(drv))
		cmd.Env = append(os.Environ(), "GUIX_DAEMON_SOCKET="+socket)
		r := &run{t: t, cmd: cmd, done: make(chan error, 1)}
		cmd.Stderr = &r.text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { r.done <- cmd.Wait() }()
		runs = append(runs, r)
	}
	for _, r := range runs {
		if r.code() != 0 {
			t.Error(r.text.String())
		}
	}
	for _, drv := range drvs {
		f.content(f.Output(drv, "out"), "two\n")
		list, err := f.client.Builds(t.Context(), filterOf(drv))
		if err != nil || len(list.Builds) != 1 {
			t.Errorf("%d builds of %s (%v)", len(list.Builds), drv, err)
		}
	}
}

// guix-daemon's other helpers pass through to the real guix.
func TestOtherHelpers(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	// A connection of its own, which protects the item until it is closed.
	s, err := daemon.Open(t.Context(), daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	item, err := s.AddText(t.Context(), unique("item"), []byte("text"), nil)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "archive")
	script := fmt.Sprintf("guix archive --export %s > %s && guix gc --delete %s && guix archive --import < %s", item, archive, item, archive)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.content(item, "text")
	for _, args := range [][]string{{"--version"}, {"authenticate", "--help"}, {"no-such-command"}} {
		theirs := exec.Command("guix", args...)
		a, _ := theirs.CombinedOutput()
		ours := exec.Command(Programs+"/lighter-guix", args...)
		b, _ := ours.CombinedOutput()
		if string(a) != string(b) || theirs.ProcessState.ExitCode() != ours.ProcessState.ExitCode() {
			t.Errorf("%v: guix says %q (%v), lighter-guix %q (%v)", args, a, theirs.ProcessState, b, ours.ProcessState)
		}
	}
}

// The last of a long log is not lost when the hook ends.
func TestLongLog(t *testing.T) {
	f := newFarm(t, entry("builder1"))
	drv := f.add(Recipe{Name: unique("wordy"), Script: "for i in $(seq 20000); do echo line $i of the log; done; echo > $out"})
	text := f.build(string(drv))
	for _, i := range []int{1, 10000, 19999, 20000} {
		contains(t, text, fmt.Sprintf("line %d of the log\n", i))
	}
}
