package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/testkit"
	"lighter/store"
	"lighter/store/derivation"
)

// TestBuild is the life of a build: what it lacks is said and sent, it is built, its log
// read, its output fetched, and nothing of it stays.
func TestBuild(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	r := start(t, s)
	head := newFakeStore(t)
	head.key = s.key // accepted here
	input := source(t, "input")
	req := request(t, 1, "hello", "log=one hold log=two", input)

	got := r.put("b1", req)
	want := &agentapi.BuildStatus{ID: "b1", Attempt: 1, Derivation: req.Derivation, State: agentapi.Rooted, Missing: []store.Path{input}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("without inputs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"build b1, attempt 1"}, s.Leases()); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
	archive, err := head.archive(input, "the input", nil)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := r.client.Import(t.Context(), bytes.NewReader(archive))
	if err != nil || len(infos) != 1 || infos[0].Path != input {
		t.Fatalf("import: %v, %v", infos, err)
	}
	got = r.put("b1", req)
	if got.State != agentapi.Running || got.Missing != nil || got.Started.IsZero() {
		t.Fatalf("with inputs: %+v", got)
	}
	<-s.held
	if status, err := r.client.Build(t.Context(), &agentapi.Asked{ID: "b1"}); err != nil || status.State != agentapi.Running || status.LogSize != 4 {
		t.Errorf("while it runs: %+v, %v", status, err)
	}
	if m, err := r.client.Machine(t.Context()); err != nil || m.Running != 1 {
		t.Errorf("machine: %+v, %v", m, err)
	}
	close(s.free)
	text, status := r.follow("b1", 0)
	if text != "one\ntwo\n" || status.State != agentapi.Succeeded || status.LogSize != 8 || status.Stopped.Before(status.Started) {
		t.Errorf("log %q, then %+v", text, status)
	}
	out := req.Outputs[0]
	if info := status.Outputs["out"]; info == nil || info.Path != out || len(info.References) != 1 {
		t.Errorf("output %+v", info)
	}
	if result, err := r.client.CollectGarbage(t.Context(), &agentapi.GCRequest{}); err != nil || len(result.Deleted) != 0 {
		t.Errorf("garbage while the build is known: %+v, %v", result, err)
	}
	fetchInto(t, r, newImporter(t, s), out, input)
	if err := r.client.DeleteBuild(t.Context(), "b1"); err != nil {
		t.Error(err)
	}
	if len(s.Leases()) != 0 {
		t.Errorf("leases after it was deleted: %q", s.Leases())
	}
	if names, err := os.ReadDir(r.buildFile("")); err != nil || len(names) != 0 {
		t.Errorf("files after it was deleted: %v, %v", names, err)
	}
	_, err = r.client.Build(t.Context(), &agentapi.Asked{ID: "b1"})
	wantCode(t, err, 404, agentapi.CodeUnknownBuild)
	if result, err := r.client.CollectGarbage(t.Context(), &agentapi.GCRequest{}); err != nil || len(result.Deleted) != 2 {
		t.Errorf("garbage afterwards: %+v, %v", result, err)
	}
}

// newImporter returns a store that accepts what s signs.
func newImporter(t *testing.T, s *fakeStore) store.Importer {
	t.Helper()
	other := newFakeStore(t)
	return storeAccepting(other, s)
}

// fetchInto exports items from the agent into another store.
func fetchInto(t *testing.T, r *rig, to store.Importer, paths ...store.Path) {
	t.Helper()
	body, err := r.client.Export(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	infos, err := to.Import(t.Context(), body, store.ImportOptions{})
	if err != nil || len(infos) != len(paths) {
		t.Errorf("import of the export: %v, %v", infos, err)
	}
}

func TestPutAgain(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	req := request(t, 1, "once", "hold")
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if status, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, req); err != nil || status.State != agentapi.Running {
				t.Errorf("got %+v, %v", status, err)
			}
		})
	}
	group.Wait()
	<-s.held
	close(s.free)
	r.follow("b", 0)
	if status := r.put("b", req); status.State != agentapi.Succeeded {
		t.Errorf("put when it is over: %+v", status)
	}
	if n := s.count("once"); n != 1 {
		t.Errorf("built %d times", n)
	}
	if n := len(s.Leases()); n != 1 {
		t.Errorf("%d leases", n)
	}
}

// signal gets something when it is first written to.
type signal chan struct{}

func (s signal) Write(p []byte) (int, error) {
	select {
	case s <- struct{}{}:
	default:
	}
	return len(p), nil
}

func TestAttempts(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	r.put("b", request(t, 2, "a", "log=first hold"))
	<-s.held
	first, reads := make(chan *agentapi.BuildStatus), make(signal, 1)
	go func() {
		status, err := r.client.Log(context.Background(), &agentapi.Asked{ID: "b"}, 0, reads)
		if err != nil {
			t.Error(err)
		}
		first <- status
	}()
	<-reads // else the log may be gone before it is opened
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, request(t, 1, "a", "hold"))
	wantCode(t, err, 409, agentapi.CodeOldAttempt)
	_, err = r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, request(t, 2, "other", "hold"))
	wantCode(t, err, 409, agentapi.CodeOtherBuild)
	if s.count("a") != 1 || s.count("other") != 0 {
		t.Errorf("refused requests started builds")
	}
	if status := r.put("b", request(t, 3, "a", "log=second hold")); status.State != agentapi.Running || status.Attempt != 3 {
		t.Errorf("higher attempt: %+v", status)
	}
	<-s.held
	if status := <-first; status == nil || status.State != agentapi.Canceled || status.Attempt != 2 {
		t.Errorf("replaced attempt: %+v", status)
	}
	close(s.free)
	if text, status := r.follow("b", 0); text != "second\n" || status.Attempt != 3 || status.State != agentapi.Succeeded {
		t.Errorf("log %q of %+v", text, status)
	}
	if diff := cmp.Diff([]string{"build b, attempt 3"}, s.Leases()); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

// TestValidOutputs shows that nothing travels and nothing runs if the outputs are there.
func TestValidOutputs(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	req := request(t, 1, "there", "exit", source(t, "never-sent"))
	if err := s.add(t.Context(), req.Outputs[0], "made before", nil); err != nil {
		t.Fatal(err)
	}
	status := r.put("b", req)
	if status.State != agentapi.Succeeded || !status.AlreadyValid || status.Outputs["out"] == nil {
		t.Errorf("got %+v", status)
	}
	if text, status := r.follow("b", 0); text != "" || status.State != agentapi.Succeeded {
		t.Errorf("log %q of %+v", text, status)
	}
	if s.count("there") != 0 {
		t.Error("it was built")
	}
}

func TestFailures(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	drv := request(t, 1, "x", "exit").Derivation
	for _, tt := range []struct {
		script string
		want   api.Failure
	}{
		{"log=x exit", api.Failure{Culprit: api.CulpritDerivation, Phase: api.Building, Kind: "exit", ExitCode: 3, Message: "builder failed with exit status 3", KeptIn: "/kept"}},
		{"broken", api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Message: errBroken.Error()}},
		{"panic", api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Message: "the agent panicked: at the disco"}},
	} {
		r.put(tt.script[:1], request(t, 1, "x", tt.script))
		_, status := r.follow(tt.script[:1], 0)
		if status.State != agentapi.Failed || status.Failure == nil {
			t.Errorf("%s: %+v", tt.script, status)
			continue
		}
		if tt.script == "panic" && strings.HasSuffix(status.Failure.Message, tt.want.Message) {
			status.Failure.Message = tt.want.Message
		}
		if diff := cmp.Diff(&tt.want, status.Failure); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.script, diff)
		}
	}
	full := &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}
	status := r.outcome(t.Context(), agentapi.BuildStatus{Derivation: drv}, -1, nil, full)
	if f := status.Failure; f.Culprit != api.CulpritMachine || !strings.Contains(f.Message, "disk is full") {
		t.Errorf("full disk: %+v", f)
	}
	long := &store.BuildError{Failure: store.FailedExit, Message: strings.Repeat("x", 1<<20)}
	if f := r.outcome(t.Context(), agentapi.BuildStatus{}, -1, nil, long).Failure; len(f.Message) > maxMessage+10 {
		t.Errorf("a message of %d bytes", len(f.Message))
	}
}

// TestKilledBuilder says what may have killed a builder, before the end of its log.
func TestKilledBuilder(t *testing.T) {
	proc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("meminfo", "MemTotal:        8388608 kB\n")
	write("vmstat", "pgfault 7\noom_kill 4\n")
	s := newFakeStore(t)
	r := start(t, s, func(o *Options) { o.procDir = proc })
	var used *store.Measured
	killed := func(kills int64, message string) string {
		t.Helper()
		f := r.outcome(t.Context(), agentapi.BuildStatus{Measured: used}, kills, nil, &store.BuildError{Failure: store.FailedKilled, ExitCode: 137, Message: message}).Failure
		if f.Culprit != api.CulpritDerivation || f.Kind != string(store.FailedKilled) {
			t.Errorf("%+v", f)
		}
		return f.Message
	}
	for _, tt := range []struct {
		kills         int64
		message, want string
	}{
		{4, "killed", "killed: the machine may have run out of memory; it has 8.00 GiB, and no other build ran"},
		{3, "killed", "killed: the machine ran out of memory meanwhile, and its kernel killed something for that; it has 8.00 GiB, and no other build ran"},
		{-1, "killed; its last lines were:\nc1plus", "killed: the machine may have run out of memory; it has 8.00 GiB, and no other build ran; its last lines were:\nc1plus"},
	} {
		if got := killed(tt.kills, tt.message); got != tt.want {
			t.Errorf("after %d kills: %q, want %q", tt.kills, got, tt.want)
		}
	}
	for _, tt := range []struct {
		used store.Measured
		want string
	}{
		{store.Measured{Method: store.MeasuredProcesses, PeakMemory: 1 << 30}, "killed: the machine may have run out of memory; it has 8.00 GiB, and no other build ran"},
		{store.Measured{Method: store.MeasuredCgroup, PeakMemory: 1 << 30}, "killed: not for want of memory, says the kernel; something else killed it"},
		{
			store.Measured{Method: store.MeasuredCgroup, PeakMemory: 1 << 30, KilledForMemory: true},
			"killed: killed for want of memory (it had 1.00 GiB at its peak); the machine has 8.00 GiB, and no other build ran",
		},
		{
			store.Measured{Method: store.MeasuredCgroup, PeakMemory: 1 << 30, KilledForMemory: true, MemoryLimit: 1 << 30},
			"killed: killed for want of memory (it had 1.00 GiB at its peak, and no more than 1.00 GiB was given to it)",
		},
	} {
		used = &tt.used
		if got := killed(4, "killed"); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.used, got, tt.want)
		}
	}
	used = nil
	r.put("b", request(t, 1, "a", "hold"))
	<-s.held
	if got := killed(4, "killed"); !strings.HasSuffix(got, "and 1 other build ran") {
		t.Errorf("beside another build: %q", got)
	}
}

// TestUnable has a store that can't build something at all.
func TestUnable(t *testing.T) {
	r := start(t, newFakeStore(t))
	err := fmt.Errorf("build: %w", &store.UnableError{Reason: "it is for another system"})
	want := &api.Failure{Culprit: api.CulpritMachine, Phase: api.Building, Kind: api.KindUnable, Message: "it is for another system"}
	if diff := cmp.Diff(want, r.outcome(t.Context(), agentapi.BuildStatus{}, -1, nil, err).Failure); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDeleteCancels(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	r.put("b", request(t, 1, "a", "hold"))
	<-s.held
	if err := r.client.DeleteBuild(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if n := r.countRunning(); n != 0 {
		t.Errorf("%d builds run", n)
	}
	wantCode(t, r.client.DeleteBuild(t.Context(), "b"), 404, agentapi.CodeUnknownBuild)
	if r.put("b", request(t, 1, "a", "hold")).State != agentapi.Running {
		t.Error("a build that was forgotten does not start again")
	}
}

// TestRestart shows what an agent finds of the builds of the one before it.
func TestRestart(t *testing.T) {
	s := newFakeStore(t)
	dir := t.TempDir()
	inDir := func(o *Options) { o.StateDir = dir }
	r := start(t, s, inDir)
	if _, err := New(r.opts); !errors.Is(err, ErrInUse) {
		t.Errorf("a second agent in the folder: %v", err)
	}
	good, bad, lost, running := request(t, 1, "good", "log=good"), request(t, 4, "bad", "log=bad exit"), request(t, 1, "lost", ""), request(t, 2, "running", "hold")
	r.put("good", good)
	r.put("bad", bad)
	r.put("lost", lost)
	for _, id := range []string{"good", "bad", "lost"} {
		r.follow(id, 0)
	}
	r.put("running", running)
	<-s.held
	r.put("rooted", request(t, 1, "rooted", "", source(t, "absent")))
	r.stop()
	if len(s.Leases()) != 0 {
		t.Errorf("leases of an agent that ended: %q", s.Leases())
	}
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: lost.Outputs}); err != nil {
		t.Fatal(err)
	}
	// What agents leave behind that were killed.
	saveForTest(t, dir, "killed", `
{"id":"killed","attempt":7,"derivation":"`+string(good.Derivation)+`","state":"running"}

{"id":"killed","attempt":7,"state":"succ`)
	saveForTest(t, dir, "torn", `{"id":"torn","att`)
	saveForTest(t, dir, "moved", `{"id":"elsewhere","attempt":7,"state":"failed"}`)

	saveForTest(t, dir, "orphan", "")
	for _, name := range []string{"orphan.log-3", "bad.log-3"} { // the second is of an attempt before the one that is known
		if err := os.WriteFile(filepath.Join(dir, "builds", name), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	r = start(t, s, inDir)
	list, err := r.client.Builds(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, b := range list {
		got[b.ID] = b.State
		if b.Failure != nil {
			got[b.ID] += ": " + string(b.Failure.Culprit) + ": " + b.Failure.Message
		}
	}
	want := map[string]string{
		"good":    "succeeded",
		"bad":     "failed: derivation: builder failed with exit status 3",
		"lost":    "failed: machine: output " + string(lost.Outputs[0]) + " was built, and deleted before it was fetched",
		"running": "failed: machine: " + errShutdown.Error(),
		"killed":  "failed: machine: " + errKilled.Error(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("builds after a restart (-want +got):\n%s", diff)
	}
	if text, status := r.follow("bad", 1); text != "ad\n" || status.LogSize != 4 || status.Attempt != 4 {
		t.Errorf("log %q of %+v", text, status)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "builds", "*")); err != nil || len(names) != 7 { // 5 records, 2 logs
		t.Errorf("files: %q, %v", names, err)
	}
	if _, err := s.CollectGarbage(t.Context(), store.GCOptions{Paths: good.Outputs}); err == nil {
		t.Error("the output of a build that nobody fetched is not protected")
	}
	if status := r.put("good", good); status.State != agentapi.Succeeded {
		t.Errorf("put again: %+v", status)
	}
	r.stop()
	r = start(t, s, inDir)
	if status, err := r.client.Build(t.Context(), &agentapi.Asked{ID: "killed"}); err != nil || status.Failure == nil || status.Failure.Message != errKilled.Error() {
		t.Errorf("the killed build after one more restart: %+v, %v", status, err)
	}
}

func saveForTest(t *testing.T, dir, id, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "builds", id+recordSuffix), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestShutdown(t *testing.T) {
	testkit.CheckLeaks(t)
	s := newFakeStore(t)
	r := start(t, s)
	r.put("b", request(t, 1, "a", "hold"))
	<-s.held
	ended := make(chan *agentapi.BuildStatus)
	go func() {
		status, err := r.client.Log(context.Background(), &agentapi.Asked{ID: "b"}, 0, new(bytes.Buffer))
		if err != nil {
			t.Error(err)
		}
		ended <- status
	}()
	r.stop()
	if status := <-ended; status == nil || status.Failure == nil || status.Failure.Culprit != api.CulpritMachine {
		t.Errorf("got %+v", status)
	}
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "c"}, request(t, 1, "c", ""))
	var answer *agentapi.Error
	if err == nil || errors.As(err, &answer) {
		t.Errorf("an agent that ends answers %v; it should look like one that is gone", err)
	}
}

// TestStuck has a build that does not end when it is canceled.
func TestStuck(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	r.put("b", request(t, 1, "a", "stuck nothing"))
	<-s.held
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Shutdown(short); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	status, err := r.client.Build(t.Context(), &agentapi.Asked{ID: "b"})
	if err != nil || status.State != agentapi.Running {
		t.Errorf("got %+v, %v", status, err)
	}
	close(s.free)
}

// TestDeleteAbandoned shows that a build whose deletion nobody waits for is canceled all
// the same, and can be deleted later.
func TestDeleteAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(t)
		r := start(t, s)
		r.put("b", request(t, 1, "a", "stuck hold"))
		<-s.held
		short, cancel := context.WithCancel(t.Context())
		deleted := make(chan error)
		go func() { deleted <- r.client.DeleteBuild(short, "b") }()
		<-s.canceled
		cancel()
		if err := <-deleted; !errors.Is(err, context.Canceled) {
			t.Errorf("delete: %v", err)
		}
		synctest.Wait() // until the agent has noticed
		s.free <- struct{}{}
		<-s.held
		if _, status := r.follow("b", 0); status.State != agentapi.Canceled {
			t.Errorf("got %+v", status)
		}
		if err := r.client.DeleteBuild(t.Context(), "b"); err != nil {
			t.Errorf("delete again: %v", err)
		}
	})
}

func TestTooMany(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s, func(o *Options) { o.MaxBuilds, o.MaxRunning = 2, 1 })
	r.put("1", request(t, 1, "1", "hold"))
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "2"}, request(t, 1, "2", "hold"))
	wantCode(t, err, 503, agentapi.CodeTooMany)
	_, err = r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "3"}, request(t, 1, "3", "hold"))
	wantCode(t, err, 503, agentapi.CodeTooMany)
	if err := r.client.DeleteBuild(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	r.put("2", request(t, 2, "2", ""))
	if _, status := r.follow("2", 0); status.State != agentapi.Succeeded {
		t.Errorf("there is room, but it is %+v", status)
	}
}

func TestPutStoreFails(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	s.missing = errors.New("disk on fire")
	_, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "b"}, request(t, 1, "a", ""))
	wantCode(t, err, 500, "")
	s.missing = nil
	r.put("b", request(t, 1, "a", ""))
	if _, status := r.follow("b", 0); status.State != agentapi.Succeeded {
		t.Errorf("the store works again, but it is %+v", status)
	}
}

// TestLinger shows when Run ends: not while builds are known.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newFakeStore(t), func(o *Options) { o.Linger, o.KeepBuilds = time.Hour, 24*time.Hour })
		began := time.Now()
		time.Sleep(30 * time.Minute)
		r.put("b", request(t, 1, "a", ""))
		r.follow("b", 0)
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The build is dropped after 24 hours, at the next look, and then an hour passes.
		if ran := time.Since(began); ran < 25*time.Hour+30*time.Minute || ran > 26*time.Hour {
			t.Errorf("ran for %s", ran)
		}
		if _, err := r.client.PutBuild(t.Context(), &agentapi.Asked{ID: "c"}, request(t, 1, "c", "")); err == nil {
			t.Error("an agent that ends starts a build")
		}
	})
}

func TestRunEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, newFakeStore(t))
		ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Hour)
		defer cancel()
		if err := r.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestRunningIsNotDropped shows that a build may take longer than results are kept.
func TestRunningIsNotDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(t)
		r := start(t, s, func(o *Options) { o.KeepBuilds = time.Hour })
		r.put("b", request(t, 1, "a", "hold"))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Hour)
		defer cancel()
		_ = r.Run(ctx)
		close(s.free)
		if _, status := r.follow("b", 0); status.State != agentapi.Succeeded {
			t.Errorf("got %+v", status)
		}
	})
}

// TestManyReferences has a build whose status is longer than a trailer may be.
func TestManyReferences(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	var inputs []store.Path
	for i := range 1500 {
		p := source(t, "input-"+strings.Repeat("x", 50)+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)))
		if err := s.add(t.Context(), p, "x", nil); err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, p)
	}
	d := &derivation.Derivation{Outputs: []derivation.Output{{Name: "out"}}, Env: []derivation.EnvVar{{Name: "out"}}, Builder: "builtin:fake", System: "x86_64-linux"}
	r.put("b", requestOf(t, 1, "profile", d, inputs...))
	_, status := r.follow("b", 0)
	if status.State != agentapi.Succeeded || status.Partial || len(status.Outputs["out"].References) != 1500 {
		t.Errorf("got %+v", status)
	}
}

// TestMeasured has a store say what builds used, whatever becomes of them.
func TestMeasured(t *testing.T) {
	s := newFakeStore(t)
	r := start(t, s)
	for script, want := range map[string]*store.Measured{
		"use":          {CPU: 1.5, PeakMemory: 1 << 30, MemoryLimit: 1 << 31, Method: store.MeasuredCgroup},
		"use=all exit": {CPU: 1.5, PeakMemory: 1 << 30, MemoryLimit: 1 << 31, Method: store.MeasuredCgroup, KilledForMemory: true},
		"use broken":   {CPU: 1.5, PeakMemory: 1 << 30, MemoryLimit: 1 << 31, Method: store.MeasuredCgroup},
		"log=nothing":  nil,
	} {
		id := strings.NewReplacer(" ", "-", "=", "-").Replace(script)
		req := request(t, 1, id, script)
		req.MemoryLimit = 1 << 31
		r.put(id, req)
		_, status := r.follow(id, 0)
		if diff := cmp.Diff(want, status.Measured); diff != "" {
			t.Errorf("%s (-want +got):\n%s", script, diff)
		}
	}
	// The next agent knows it too.
	r.stop()
	next := start(t, s, func(o *Options) { o.StateDir = r.opts.StateDir })
	if status, err := next.client.Build(t.Context(), &agentapi.Asked{ID: "use"}); err != nil || status.Measured == nil || status.Measured.PeakMemory != 1<<30 {
		t.Errorf("got %+v, %v", status, err)
	}
	for _, limit := range []int64{-1, 1, agentapi.MinMemoryLimit - 1} {
		req := request(t, 1, "limit", "use")
		req.MemoryLimit = limit
		_, err := next.client.PutBuild(t.Context(), &agentapi.Asked{ID: "limit"}, req)
		if wantCode(t, err, 400, agentapi.CodeBadRequest); err == nil || !strings.Contains(err.Error(), "is neither 0 nor 67108864 at least") {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if m, err := next.client.Machine(t.Context()); err != nil || m.OwnLoad != 0.25 {
		t.Errorf("machine: %+v, %v", m, err)
	}
}
