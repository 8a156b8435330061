package coordinator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/ledger"
	"lighter/store"
)

// ask asks the API, and decodes what it answers.
func ask[T any](f *farm, method, path, body string) *T {
	f.t.Helper()
	w := httptest.NewRecorder()
	f.handler().ServeHTTP(w, httptest.NewRequestWithContext(f.t.Context(), method, path, strings.NewReader(body)))
	v := new(T)
	if err := json.Unmarshal(w.Body.Bytes(), v); err != nil || w.Code != http.StatusOK {
		f.t.Fatalf("%s %s: %d, %s", method, path, w.Code, w.Body)
	}
	return v
}

func expectedOf(f *farm, id string) *api.Build {
	f.t.Helper()
	return &ask[api.Why](f, "GET", "/v1/builds/"+id+"/why", "").Build
}

// builds has the next builds that hold take so long each, and waits until they are over.
func (f *farm) builds(n int, each time.Duration) {
	f.t.Helper()
	for range n {
		name := <-f.agents["m"].held
		time.Sleep(each)
		f.agents["m"].release(name)
		synctest.Wait()
	}
}

// outlookFarm has a machine with one slot, which has built packages a, b and c five times, in about 10
// minutes each.
func outlookFarm(t *testing.T) *farm {
	t.Helper()
	f := newFarm(t, func(c *Config) { c.Machines[0].ParallelBuilds = 1 }, "m")
	f.ready("m")
	for i := range 5 {
		f.submit(f.drv(fmt.Sprintf("a-1.%d", i), "hold"), f.drv(fmt.Sprintf("b-1.%d", i), "hold"), f.drv(fmt.Sprintf("c-1.%d", i), "hold"))
		f.builds(3, 9*time.Minute+time.Duration(i)*30*time.Second)
	}
	f.idle()
	return f
}

// within reports whether a time is in an interval that is no wider than most.
func within(e *api.Expected, at time.Time, most time.Duration) bool {
	return e != nil && !at.Before(e.Low) && !at.After(e.High) && !e.Middle.Before(e.Low) && !e.Middle.After(e.High) && e.High.Sub(e.Low) < most
}

// TestExpectedEnds asks wherever it can be asked when builds will be done that were built before.
func TestExpectedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := outlookFarm(t)
		began := time.Now()
		a := f.drv("a-1.9", "hold")
		b := f.drv("b-1.9", "hold", a)
		c := f.drv("c-1.9", "hold")
		ids := f.request(
			api.Request{Derivation: a, Tags: map[string]string{"set": "ab"}}, api.Request{Derivation: b, Tags: map[string]string{"set": "ab"}},
			api.Request{Derivation: c, Priority: -1},
		)
		synctest.Wait()
		const ten = 10 * time.Minute
		for i, e := range map[int]*api.Expected{
			0: ask[api.Build](f, "GET", "/v1/builds/"+ids[0]+"?events=0", "").ExpectedEnd,
			1: ask[api.BuildStory](f, "GET", "/v1/builds/"+ids[1], "").Build.ExpectedEnd,
			2: ask[api.Why](f, "GET", "/v1/builds/"+ids[2]+"/why", "").Build.ExpectedEnd,
		} {
			if !within(e, began.Add(time.Duration(i+1)*ten), 10*ten) || e.Unsure != "" {
				t.Errorf("build %d: %v, want about %d minutes from %s", i, e, 10*(i+1), began)
			}
		}
		for _, listed := range ask[api.BuildList](f, "GET", "/v1/builds?limit=1000", "").Builds {
			if listed.State.Final() != (listed.ExpectedEnd == nil) {
				t.Errorf("%s is %s, and its end is expected at %v", listed.Derivation, listed.State, listed.ExpectedEnd)
			}
		}
		if why := ask[api.Why](f, "GET", "/v1/builds/"+ids[1]+"/why", ""); !within(why.ExpectedStart, began.Add(ten), 10*ten) {
			t.Errorf("it begins at %v, want about 10 minutes from %s", why.ExpectedStart, began)
		}
		s := ask[api.Status](f, "GET", "/v1/status", "")
		if o := s.Outlook; o == nil || !within(o.ExpectedEnd, began.Add(3*ten), 10*ten) || o.Builds != 3 || o.Untold != 0 || o.Unknown != "" {
			t.Errorf("the whole: %+v", o)
		}
		if q := s.Queues[0]; !within(q.ExpectedEnd, began.Add(3*ten), 10*ten) || q.Empty.Duration().Round(2*ten) != 4*ten {
			t.Errorf("the system: %+v", q)
		}
		if len(s.Running) != 1 || s.Running[0].ExpectedEnd == nil {
			t.Errorf("running: %+v", s.Running)
		}
		for _, body := range []string{`{"filter":{"tags":{"set":"ab"}}}`, `{"ids":["` + ids[0] + `","` + ids[1] + `"]}`, `{"ids":["` + ids[0][:13] + `","` + ids[1][:13] + `"]}`} {
			if o := ask[api.Outlook](f, "POST", "/v1/outlook", body); !within(o.ExpectedEnd, began.Add(2*ten), 10*ten) || o.Builds != 2 {
				t.Errorf("%s: %+v", body, o)
			}
		}
		// None of it is in the ledger.
		for b, err := range f.ledger.Builds(t.Context(), ledger.Filter{}) {
			if err != nil || b.ExpectedEnd != nil {
				t.Errorf("the ledger has %v, %v", b.ExpectedEnd, err)
			}
		}
		f.builds(3, ten)
		f.idle()
		if o := ask[api.Status](f, "GET", "/v1/status", "").Outlook; o != nil {
			t.Errorf("nothing is left to do, and %+v", o)
		}
	})
}

// TestEndsThatCannotBeTold has builds that nothing can take, that were never built, and a coordinator that is paused.
func TestEndsThatCannotBeTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := outlookFarm(t)
		nowhere := f.feature("nowhere", "none-has-it")
		ids := f.submit(f.drv("a-1.9", "hold"), nowhere, f.drv("new-1.0", "hold"), f.drv("b-2.0", "hold", f.drv("newer-1.0", "hold")))
		synctest.Wait()
		end := func(i int) *api.Expected { return expectedOf(f, ids[i]).ExpectedEnd }
		if e := end(1); e != nil {
			t.Errorf("nothing can take it, and it is done at %v", e)
		}
		for i, want := range map[int]string{2: "never built here before", 3: "some of what it needs was never built here before"} {
			if e := end(i); e == nil || e.Unsure != want {
				t.Errorf("%s: got %v, want %q", expectedOf(f, ids[i]).Derivation, e, want)
			}
		}
		o := ask[api.Status](f, "GET", "/v1/status", "").Outlook
		if o.ExpectedEnd == nil || o.ExpectedEnd.Unsure != "3 of 5 never built here before" || o.Builds != 4 || o.Untold != 1 {
			t.Errorf("the whole: %+v, %v", o, o.ExpectedEnd)
		}
		running := <-f.agents["m"].held
		f.pauseIt()
		time.Sleep(10 * time.Second)
		o = ask[api.Status](f, "GET", "/v1/status", "").Outlook
		if o.Unknown != "paused" || o.Builds != 1 || o.Untold != 4 || o.ExpectedEnd == nil {
			t.Errorf("paused: %+v; want the end of the one that runs", o)
		}
		for i, id := range ids {
			b, e := expectedOf(f, id), end(i)
			if b.State.Running() != (e != nil) {
				t.Errorf("%s is %s, and done at %v", b.Derivation, b.State, e)
			}
		}
		f.resume()
		if e := end(2); e != nil {
			t.Errorf("what was thought when it was paused is told: %v", e)
		}
		time.Sleep(10 * time.Second)
		if e := end(2); e == nil {
			t.Error("it goes on, and no end is told")
		}
		// A machine that gets no new builds finishes what it has.
		if _, err := f.c.Drain(t.Context(), "m", "", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		if e := end(2); e != nil {
			t.Errorf("the only machine is drained, and it is done at %v", e)
		}
		if o = ask[api.Status](f, "GET", "/v1/status", "").Outlook; o.Builds != 1 {
			t.Errorf("drained: %+v; want the end of the one that runs", o)
		}
		f.agents["m"].release(running)
		f.cancel(ids...)
		f.idle()
	})
}

// TestOverdue has a build take ten times as long as it should.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := outlookFarm(t)
		id := f.submit(f.drv("a-1.9", "hold"))[0]
		name := <-f.agents["m"].held
		time.Sleep(100 * time.Minute)
		now := time.Now()
		if e := expectedOf(f, id).ExpectedEnd; e == nil || e.Low.Before(now) || e.Middle.Before(now.Add(time.Minute)) {
			t.Errorf("at %s got %v", now, e)
		}
		f.agents["m"].release(name)
		f.idle()
	})
}

// TestNobodyWaitsForAnOutlook has the loop busy: clients of the ledger are answered all the same.
func TestNobodyWaitsForAnOutlook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := outlookFarm(t)
		id := f.submit(f.drv("a-1.9", "hold"))[0]
		name := <-f.agents["m"].held
		go f.inLoop(func(*loop) { time.Sleep(3 * time.Second) })
		synctest.Wait()
		began := time.Now()
		if b := ask[api.Build](f, "GET", "/v1/builds/"+id+"?events=0", ""); b.ExpectedEnd != nil || time.Since(began) > 300*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(began), b.ExpectedEnd)
		}
		time.Sleep(3 * time.Second)
		f.agents["m"].release(name)
		f.idle()
	})
}

// BenchmarkSnapshot is for how long the loop does nothing else when somebody asks for the ends of 20,000 builds, each of
// which needs 20 others.
func BenchmarkSnapshot(b *testing.B) {
	f := newFarm(b, nil, "m")
	f.inLoop(func(l *loop) {
		var tasks []*task
		for i := range 20_000 {
			id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
			t := l.newTask(store.Path(id), id)
			t.node = &headstore.Node{System: "x86_64-linux"}
			for n := range min(i, 20) {
				t.inputs.Add(tasks[i-1-n])
			}
			t.builds = append(t.builds, &liveBuild{Build: api.Build{Request: api.Request{ID: id}}})
			tasks = append(tasks, t)
		}
		for b.Loop() {
			l.snapshot(l.now())
		}
		for _, t := range tasks {
			delete(l.tasks, t.drv)
			delete(l.byID, t.id)
		}
	})
}
