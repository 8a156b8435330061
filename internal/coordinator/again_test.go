package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
)

// againFarm has a build run on a slow machine, and on a fast one too, unless it may not.
type againFarm struct {
	*farm
	id string
}

func newAgainFarm(t *testing.T, script string, change func(*Config), request func(*api.Request)) *againFarm {
	f := &againFarm{farm: newFarm(t, func(c *Config) {
		c.Machines[0].Speed = 0.1
		if change != nil {
			change(c)
		}
	}, "slow", "fast")}
	f.ready("slow", "fast")
	if _, err := f.c.Drain(t.Context(), "fast", "", ""); err != nil {
		t.Fatal(err)
	}
	r := api.Request{Derivation: f.drv("one", script)}
	if request != nil {
		request(&r)
	}
	f.id = f.request(r)[0]
	time.Sleep(10 * time.Second)
	if _, err := f.c.ResumeMachine(t.Context(), "fast", "", ""); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	return f
}

// on returns on which machines the build runs.
func (f *againFarm) on() (names []string) {
	for _, name := range []string{"slow", "fast"} {
		if f.agents[name].knows() > 0 {
			names = append(names, name)
		}
	}
	return names
}

func (f *againFarm) ends(state api.State, machine string, attempt int) *api.Build {
	f.t.Helper()
	b := f.awaitState(f.id, state)
	if b.Machine != machine || b.Attempt != attempt {
		f.t.Errorf("it ended on %s with attempt %d, want %s, %d\n%s", b.Machine, b.Attempt, machine, attempt, f.history(f.id))
	}
	f.idle()
	return b
}

func TestBegunAgain(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"the newer is first": func(t *testing.T) {
			f := newAgainFarm(t, "hold log=@", nil, nil)
			if got := strings.Join(f.on(), " "); got != "slow fast" {
				t.Fatalf("it runs on %q\n%s", got, f.history(f.id))
			}
			if !strings.Contains(f.history(f.id), "begun again on fast, which idles: to be finished in ") {
				t.Errorf("history:\n%s", f.history(f.id))
			}
			f.agents["fast"].release("one")
			b := f.ends(api.Succeeded, "fast", 2)
			if got := f.log(b); got != "fast\n" {
				t.Errorf("its log is %q", got)
			}
		},
		"the elder is first": func(t *testing.T) {
			f := newAgainFarm(t, "hold log=@", nil, nil)
			f.agents["slow"].release("one")
			b := f.ends(api.Succeeded, "slow", 3)
			if got := f.log(b); got != "slow\n" {
				t.Errorf("its log is %q", got)
			}
			if f.agents["slow"].built["one"] != 1 {
				t.Error("it was built twice on slow")
			}
		},
		"the newer fails by itself": func(t *testing.T) {
			f := newAgainFarm(t, "hold fail=fast", nil, nil)
			f.agents["fast"].release("one")
			f.ends(api.Failed, "fast", 2)
		},
		"the elder fails by itself": func(t *testing.T) {
			f := newAgainFarm(t, "hold fail=slow", nil, nil)
			f.agents["slow"].release("one")
			f.ends(api.Failed, "slow", 2)
		},
		"the newer is lost": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, nil)
			f.agents["fast"].cutLink(true)
			time.Sleep(5 * time.Minute)
			if b := f.awaitState(f.id, api.Building); b.Machine != "slow" || !strings.HasPrefix(b.Reason, "goes on on slow alone: ") {
				t.Errorf("it is on %s: %s", b.Machine, b.Reason)
			}
			f.agents["slow"].release("one")
			b := f.awaitState(f.id, api.Succeeded)
			if b.Machine != "slow" {
				t.Errorf("it ended on %s", b.Machine)
			}
			f.agents["fast"].up()
			f.idle()
		},
		"the elder is lost": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, nil)
			f.agents["slow"].cutLink(true)
			time.Sleep(5 * time.Minute)
			f.agents["fast"].release("one")
			b := f.awaitState(f.id, api.Succeeded)
			if b.Machine != "fast" || b.Attempt != 2 {
				t.Errorf("it ended on %s with attempt %d", b.Machine, b.Attempt)
			}
			f.agents["slow"].up()
			f.idle()
		},
		"links break for a moment": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, nil)
			for _, a := range f.agents {
				a.cutLink(true)
			}
			time.Sleep(2 * time.Second)
			for _, a := range f.agents {
				a.up()
			}
			time.Sleep(10 * time.Second)
			if got := strings.Join(f.on(), " "); got != "slow fast" {
				t.Errorf("it runs on %q\n%s", got, f.history(f.id))
			}
			f.agents["slow"].release("one")
			f.ends(api.Succeeded, "slow", 3)
		},
		"canceled": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, nil)
			if _, _, err := f.c.Cancel(t.Context(), []string{f.id}, ""); err != nil {
				t.Fatal(err)
			}
			f.ends(api.Canceled, "fast", 2)
		},
		"crash": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, nil)
			f.crash()
			f.start()
			time.Sleep(time.Minute)
			f.agents["fast"].release("one")
			f.ends(api.Succeeded, "fast", 2)
		},
		"not where it is off": func(t *testing.T) {
			f := newAgainFarm(t, "hold", func(c *Config) { c.Limits.RunOnce = true }, nil)
			f.agents["slow"].release("one")
			f.ends(api.Succeeded, "slow", 1)
		},
		"not where it may not go": func(t *testing.T) {
			f := newAgainFarm(t, "hold", nil, func(r *api.Request) { r.On = []string{"slow"} })
			f.agents["slow"].release("one")
			f.ends(api.Succeeded, "slow", 1)
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}
