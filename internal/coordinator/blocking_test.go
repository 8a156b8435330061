package coordinator

import (
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/store"
)

// TestBlocking has a library that is built and one that has failed, with what needs them, and then the second one
// asked for again.
func TestBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t, func(c *Config) { c.Machines[0].ParallelBuilds = 2 }, "m")
		f.ready("m")
		if got := ask[api.Blocking](f, "GET", "/v1/blocking", ""); len(got.Builds) != 0 || len(got.Failures) != 0 || got.Unknown != "" {
			t.Errorf("nothing is to be done: %+v", got)
		}
		bad := f.drv("bad", "fail")
		first := f.submit(bad, f.drv("needs-bad", "", bad), f.drv("needs-bad-too", "", bad))
		f.awaitState(first[0], api.Failed)
		f.submit(f.drv("bad-alone", "fail"))
		f.idle()
		lib := f.drv("lib", "hold")
		tool := f.drv("tool", "", lib)
		ids := f.submit(lib, tool, f.drv("one", "", tool), f.drv("two", "", tool, lib), f.drv("two", "", tool, lib), f.drv("alone", "hold"))
		synctest.Wait()
		time.Sleep(10 * time.Second)
		got := ask[api.Blocking](f, "GET", "/v1/blocking", "")
		if len(got.Builds) != 1 || got.BuildsCount != 1 || got.Builds[0].Build.ID != ids[0] || got.Builds[0].Holds != 4 {
			t.Errorf("got %+v, want that 4 builds need lib", got.Builds)
		}
		if len(got.Failures) != 2 || got.FailuresCount != 2 || got.Failures[0].Build.ID != first[0] || got.Failures[0].Build.Dependents != 2 || got.Failures[0].Holds != 0 {
			t.Errorf("got %+v, want that 2 builds have failed because of bad, and none because of the other", got.Failures)
		}
		if got.MoreFailures || got.Unknown != "" || time.Since(got.At) > 10*time.Second {
			t.Errorf("got %+v", got)
		}
		if got := ask[api.Blocking](f, "GET", "/v1/blocking?limit=1&system=x86_64-linux", ""); len(got.Failures) != 1 || got.FailuresCount != 2 {
			t.Errorf("limited: %+v", got)
		}
		if got := ask[api.Blocking](f, "GET", "/v1/blocking?system=riscv64-linux", ""); len(got.Builds)+got.BuildsCount+len(got.Failures)+got.FailuresCount != 0 {
			t.Errorf("of another system: %+v", got)
		}

		// What failed is to be built again, for another build.
		f.pauseIt()
		f.submit(bad, f.drv("needs-bad-at-last", "", bad, lib))
		synctest.Wait()
		time.Sleep(10 * time.Second)
		got = ask[api.Blocking](f, "GET", "/v1/blocking", "")
		if len(got.Failures) == 0 || got.Failures[0].Build.ID != first[0] || got.Failures[0].Holds != 1 {
			t.Errorf("got %+v, want that the failure holds up one again", got.Failures)
		}
		if len(got.Builds) != 2 || got.Builds[0].Holds != 5 || got.Builds[1].Holds != 1 || got.Builds[1].Build.Derivation != bad {
			t.Errorf("got %+v, want that 5 need lib, and 1 bad", got.Builds)
		}
		f.resume()
		f.releaseAll("lib", "alone")
		f.idle()
		time.Sleep(24 * time.Hour)
		if got := ask[api.Blocking](f, "GET", "/v1/blocking", ""); len(got.Builds)+len(got.Failures) != 0 {
			t.Errorf("a day later: %+v", got)
		}
	})
}

// TestStoryOutputsAndCause looks at what a story says of outputs, and of why a build was not made.
func TestStoryOutputsAndCause(t *testing.T) {
	f := newFarm(t, nil, "m")
	bad := f.drv("bad", "fail")
	middle := f.drv("middle", "", bad)
	ids := f.submit(f.drv("good", ""), bad, f.drv("top", "", middle))
	f.idle()
	story := func(id string) *api.BuildStory { return ask[api.BuildStory](f, "GET", "/v1/builds/"+id, "") }
	good := story(ids[0])
	if len(good.Outputs) != 1 || good.Cause != nil {
		t.Fatalf("%+v", good)
	}
	info, err := f.head.Info(t.Context(), good.Build.OutputPaths["out"])
	if err != nil {
		t.Fatal(err)
	}
	want := api.Output{Name: "out", Path: info.Path, Home: true, Size: info.NARSize, Hash: store.EncodeBase32(info.NARHash[:])}
	if good.Outputs[0] != want {
		t.Errorf("got %+v, want %+v", good.Outputs[0], want)
	}
	if s := story(ids[1]); s.Cause != nil || len(s.Outputs) != 0 {
		t.Errorf("of the one that failed itself: %+v", s)
	}
	if s := story(ids[2]); s.Build.State != api.DependencyFailed || s.Cause == nil || s.Cause.ID != ids[1] || s.Cause.State != api.Failed {
		t.Errorf("of one that was not made: %+v", s)
	}
}
