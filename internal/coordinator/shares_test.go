package coordinator

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/turns"
	"lighter/store"
)

var (
	alice = &api.Submitter{UID: 1000, User: "alice"}
	bob   = &api.Submitter{UID: 1001, User: "bob"}
)

// shareFarm has one slot, and is paused: what is submitted waits until f.resume.
func shareFarm(t *testing.T, r turns.Rules) *farm {
	t.Helper()
	f := newFarm(t, func(c *Config) {
		c.Machines[0].ParallelBuilds = 1
		c.Shares = r
		c.Limits.IdleAlarm = 24 * time.Hour
	}, "m")
	f.pauseIt()
	return f
}

func (f *farm) pauseIt() {
	f.t.Helper()
	if err := f.c.Pause(f.t.Context(), "", ""); err != nil {
		f.t.Fatal(err)
	}
}

func (f *farm) resume() {
	f.t.Helper()
	if err := f.c.Resume(f.t.Context(), "", ""); err != nil {
		f.t.Fatal(err)
	}
}

// asks submits builds for a user, named so, which are held until takeTurns has them go on. It waits
// until they are in the queue.
func (f *farm) asks(who *api.Submitter, name string, builds int, change func(*api.Request)) (ids []string) {
	f.t.Helper()
	var requests []api.Request
	for i := range builds {
		r := api.Request{Derivation: f.drv(fmt.Sprintf("%s-%d", name, i), "hold")}
		if change != nil {
			change(&r)
		}
		requests = append(requests, r)
	}
	answers, err := f.c.Submit(f.t.Context(), requests, who)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, a := range answers {
		if a.Build == nil {
			f.t.Fatal(a.Error)
		}
		ids = append(ids, a.Build.ID)
	}
	synctest.Wait()
	return ids
}

// takeTurns has the next builds run, for so long each, and returns of each which letters its name
// begins with: "aab" are two of alice's and one of bob's.
func (f *farm) takeTurns(builds int, each time.Duration) string {
	f.t.Helper()
	var order strings.Builder
	for range builds {
		select {
		case name := <-f.agents["m"].held:
			order.WriteString(name[:1])
			time.Sleep(each)
			f.agents["m"].release(name)
		case <-time.After(time.Hour):
			f.t.Fatalf("nothing is begun after %q", order.String())
		}
		synctest.Wait()
	}
	return order.String()
}

func (f *farm) shares() map[string]api.Share {
	f.t.Helper()
	status, err := f.c.Status(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	shares := make(map[string]api.Share)
	for _, s := range status.Shares {
		shares[s.Name] = s
	}
	return shares
}

func TestSharesTakeTurns(t *testing.T) {
	const minute = time.Minute
	for _, tt := range []struct {
		name  string
		rules turns.Rules
		run   func(f *farm) string
		want  string // how many are whose
	}{
		{"alike", turns.Rules{}, func(f *farm) string { return f.takeTurns(20, minute) }, "10 a, 10 b"},
		{"two to one", turns.Rules{Weights: map[string]float64{"alice": 2}}, func(f *farm) string { return f.takeTurns(30, minute) }, "20 a, 10 b"},
		{"one to four", turns.Rules{Weights: map[string]float64{"*": 4, "alice": 1}}, func(f *farm) string { return f.takeTurns(30, minute) }, "6 a, 24 b"},
		{"nobody is told apart", turns.Rules{By: turns.ByNone}, func(f *farm) string { return f.takeTurns(20, minute) }, "20 a, 0 b"},
		{"other weights meanwhile", turns.Rules{HalfLife: 10 * minute}, func(f *farm) string {
			f.takeTurns(10, minute)
			if err := f.c.SetShares(f.t.Context(), turns.Rules{HalfLife: 10 * minute, Weights: map[string]float64{"bob": 4}}); err != nil {
				f.t.Fatal(err)
			}
			f.takeTurns(20, minute) // until bob has had what he may have by now
			return f.takeTurns(14, minute)
		}, "3 a, 11 b"},
		{"nobody is told apart any more", turns.Rules{}, func(f *farm) string {
			f.takeTurns(10, minute)
			if err := f.c.SetShares(f.t.Context(), turns.Rules{By: turns.ByNone}); err != nil {
				f.t.Fatal(err)
			}
			f.takeTurns(1, minute) // it was begun before
			return f.takeTurns(10, minute)
		}, "10 a, 0 b"},
		{"a higher priority comes first, whoever asks", turns.Rules{}, func(f *farm) string {
			f.takeTurns(4, minute)
			f.asks(alice, "a-urgent", 5, func(r *api.Request) { r.Priority = 1 })
			f.takeTurns(1, minute) // it was begun before
			return f.takeTurns(5, minute)
		}, "5 a, 0 b"},
		{"who comes back has saved nothing up", turns.Rules{}, func(f *farm) string {
			f.takeTurns(20, minute)
			f.asks(&api.Submitter{UID: 1002, User: "carol"}, "c", 20, nil)
			f.takeTurns(2, minute)
			order := f.takeTurns(12, minute)
			if n := strings.Count(order, "c"); n != 4 {
				f.t.Errorf("of %q %d are carol's, want 4", order, n)
			}
			return strings.ReplaceAll(order, "c", "")
		}, "4 a, 4 b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := shareFarm(t, tt.rules)
				f.asks(alice, "a", 40, nil)
				f.asks(bob, "b", 40, nil)
				f.resume()
				order := tt.run(f)
				if got := fmt.Sprintf("%d a, %d b", strings.Count(order, "a"), strings.Count(order, "b")); got != tt.want {
					t.Errorf("got %s, want %s: %s", got, tt.want, order)
				}
			})
		})
	}
}

// TestUseIsKept restarts the coordinator after alice had the machine for an hour: bob comes first
// until he has had as much as still counts of that.
func TestUseIsKept(t *testing.T) {
	for name, tt := range map[string]struct {
		restart func(f *farm)
		pause   time.Duration
		bobs    int // of the first 8 builds
	}{
		// Of the hour 33 minutes count at its end, and 7 after 70 minutes more.
		"at once":            {(*farm).shutDown, 0, 7},
		"after a crash":      {(*farm).crash, 0, 7},
		"70 minutes later":   {(*farm).shutDown, 70 * time.Minute, 5},
		"twelve hours later": {(*farm).shutDown, 12 * time.Hour, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := shareFarm(t, turns.Rules{HalfLife: 30 * time.Minute})
				f.asks(alice, "a", 6, nil)
				f.resume()
				f.takeTurns(6, 10*time.Minute)
				f.idle()
				f.pauseIt() // which is also the time for a record
				was := f.shares()["alice"].Used
				tt.restart(f)
				time.Sleep(tt.pause)
				f.start()
				synctest.Wait()
				if is := f.shares()["alice"].Used; is > was || tt.pause == 0 && is < was*9/10 {
					t.Errorf("alice had used %v, and has used %v after the restart", was, is)
				}
				f.asks(alice, "a-again", 20, nil)
				f.asks(bob, "b", 20, nil)
				f.resume()
				if order := f.takeTurns(8, 5*time.Minute); strings.Count(order, "b") != tt.bobs {
					t.Errorf("%d of %q are bob's, want %d", strings.Count(order, "b"), order, tt.bobs)
				}
			})
		})
	}
}

// TestWantedByTwo has bob want something that needs what alice wants too: he does not wait for her
// turn, and when he no longer wants it, it is hers again.
func TestWantedByTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := shareFarm(t, turns.Rules{})
		share := func(drv store.Path) (share string) {
			t.Helper()
			if err := f.c.do(t.Context(), func(l *loop) { share = l.tasks[drv].share }); err != nil {
				t.Fatal(err)
			}
			return share
		}
		f.asks(alice, "a", 4, nil)
		f.resume()
		f.takeTurns(2, time.Minute) // so that she has been served
		f.pauseIt()
		common := f.drv("common", "hold")
		for i, who := range []*api.Submitter{alice, bob} {
			needs := f.drv(fmt.Sprintf("needs-it-%d", i), "hold", common)
			answers, err := f.c.Submit(t.Context(), []api.Request{{Derivation: needs}}, who)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := share(common); got != who.User {
				t.Errorf("with %s what both need counts for %s", who.User, got)
			}
			if got := f.children()[common].Share; i == 0 && got != "alice" {
				t.Errorf("what was made for alice's build counts for %q", got)
			}
			if i == 1 {
				f.cancel(answers[0].Build.ID)
			}
		}
		f.resume() // which has the loop look at the queue
		synctest.Wait()
		if got := share(common); got != "alice" {
			t.Errorf("without bob what alice needs counts for %s", got)
		}
	})
}

// TestWhoseTurn asks why a build waits while others come first.
func TestWhoseTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := shareFarm(t, turns.Rules{Weights: map[string]float64{"bob": 3}})
		f.asks(alice, "a", 4, nil)
		alone := f.asks(alice, "a-last", 1, nil)[0]
		if why := f.why(alone); why.Shares != nil {
			t.Errorf("alice alone takes turns with %+v", why.Shares)
		}
		last := f.asks(bob, "b", 8, nil)[7]
		f.resume()
		f.takeTurns(1, 10*time.Minute)
		<-f.agents["m"].held
		time.Sleep(time.Minute)
		why := f.why(last)
		var got []string
		for _, s := range why.Shares {
			got = append(got, fmt.Sprintf("%s %.0f%%: %d ready, %d running, used %s of %s, %d before", s.Name, 100*s.Part, s.Queued, s.Running, s.Used.Duration(), s.Due.Duration().Round(time.Second), s.Before))
		}
		want := []string{
			"bob 75%: 7 ready, 1 running, used 1m0s of 8m15s, 6 before",
			"alice 25%: 4 ready, 0 running, used 10m0s of 2m45s, 0 before",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if why.Build.Share != "bob" || why.Place != 7 {
			t.Errorf("the build of %q is at place %d", why.Build.Share, why.Place)
		}
		if why := f.why(alone); why.Shares[0].Name != "bob" || why.Summary != "no machine can take it now" {
			t.Errorf("alice's: %q, %+v", why.Summary, why.Shares)
		}
	})
}

// TestCheckCounts has bob check something: what is built for that counts for him.
func TestCheckCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := shareFarm(t, turns.Rules{})
		f.resume()
		answers, err := f.c.Submit(t.Context(), []api.Request{{Derivation: f.drv("b", "hold"), Check: 1}}, bob)
		if err != nil {
			t.Fatal(err)
		}
		f.takeTurns(1, 10*time.Minute)
		f.awaitFinal(answers[0].Build.ID)
		f.idle()
		if used := f.shares()["bob"].Used.Duration(); used < 10*time.Minute {
			t.Errorf("bob has used %s for his check", used)
		}
	})
}

// TestHookClient has build hooks ask, for clients of guix-daemon that they know or don't.
func TestHookClient(t *testing.T) {
	root, other := uint32(0), uint32(65534)
	for _, tt := range []struct {
		name   string
		hook   uint32 // as which user it connects
		user   string
		client *uint32
		want   string
	}{
		{"for root", 0, "root", &root, "root"},
		{"for a user", 0, "root", &other, lookedUp(other)},
		{"for nobody known", 0, "root", nil, "guix-daemon"},
		{"of guix-daemon without rights", 990, "guix-daemon", &other, lookedUp(other)},
		{"of somebody who claims another", 5, "eve", &root, "eve"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newHookFarm(t, nil, "m1")
			restricted(f.farm)
			f.unserve()
			listener, err := net.Listen("unix", f.socket)
			if err != nil {
				t.Fatal(err)
			}
			f.faceOf = nil
			handler := f.handler()
			f.server, f.served = &http.Server{Handler: handler, ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
				return WithPeer(ctx, &TestPeer{UID: tt.hook, Name: func() string { return tt.user }})
			}}, make(chan struct{})
			go func() {
				defer close(f.served)
				f.server.Serve(listener)
			}()
			h := f.newHook(f.drv("one", "hold"))
			h.order.Client = tt.client
			h.start()
			<-f.agents["m1"].held
			b, err := f.ledger.Build(t.Context(), h.order.ID)
			if err != nil {
				t.Fatal(err)
			}
			if b.Share != tt.want || b.Submitter == nil || b.Submitter.UID != tt.hook {
				t.Errorf("it counts for %q and is of %+v, want %q", b.Share, b.Submitter, tt.want)
			}
			f.agents["m1"].release("one")
			<-h.over
			f.over()
		})
	}
}

func lookedUp(uid uint32) string {
	text := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}
