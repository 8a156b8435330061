package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/testkit"
)

// TestTwoUsers has two users, whom the kernel tells apart, queue as many builds each, one of them with
// twice the other's weight: as long as both have some, one gets twice as many done.
func TestTwoUsers(t *testing.T) {
	testkit.NeedRoot(t) // who can be two users
	const each = 40
	const alice, bob = 4242, 4243 // whom no user database knows
	f := newFarm(t)
	f.write("config/lighter.toml", []byte("[shares]\nweights = { 4242 = 2 }\n"))
	f.start()
	for _, folder := range []string{programs, filepath.Join(f.dir, "head")} { // as for an installed coordinator
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.run("coordinator", "pause")
	for _, user := range []uint32{alice, bob} {
		var drvs []string
		for i := range each {
			drvs = append(drvs, string(f.derive(fmt.Sprintf("of-%d-%d", user, i), "sleep 0.3; echo > $out")))
		}
		cmd := f.command(append([]string{"build", "--detach"}, drvs...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: uint32(os.Getegid())}} // #nosec G115 -- a number of the kernel's
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	status, err := f.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shares := make(map[string]api.Share)
	for _, s := range status.Shares {
		shares[s.Name] = s
	}
	if a, b := shares["4242"], shares["4243"]; a.Queued != each || b.Queued != each || a.Weight != 2 || b.Weight != 1 {
		t.Errorf("before: %+v", status.Shares)
	}
	if page := f.run("status"); !strings.Contains(page, "SHARE") || !strings.Contains(page, "4243") {
		t.Errorf("status:\n%s", page)
	}
	f.run("coordinator", "resume")
	f.run("builds", "wait", "--state", "open", "--timeout", "5m")
	var ends []api.Build
	if _, err := f.client.EachPage(t.Context(), &api.Filter{}, 0, func(page []api.Build) error {
		ends = append(ends, page...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(ends, func(a, b api.Build) int { return stopped(&a).Compare(stopped(&b)) })
	var order strings.Builder
	for i := range ends {
		b := &ends[i]
		if b.State != api.Succeeded || !strings.Contains(b.Derivation.String(), "-of-"+b.Share+"-") {
			t.Errorf("%s counts for %q: %s", b.Derivation, b.Share, b.State)
		}
		order.WriteByte("ab"[b.Submitter.UID-alice])
	}
	// The last of 45 is the 30th of one and the 15th of the other, give or take what runs at the same
	// time. In the order of submission it would be 40 and 5.
	const looked, want, off = 45, 30, 5
	if n := strings.Count(order.String()[:looked], "a"); n < want-off || n > want+off {
		t.Errorf("%d of the first %d ends are of whom has twice the weight, want about %d: %s", n, looked, want, order.String())
	}
}

func stopped(b *api.Build) time.Time {
	if b.Stopped == nil {
		return time.Time{}
	}
	return *b.Stopped
}
