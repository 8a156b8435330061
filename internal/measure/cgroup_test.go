package measure

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/store"
)

// files makes files in a folder.
func files(t *testing.T, folder string, contents map[string]string) {
	t.Helper()
	for name, text := range contents {
		file := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoGroups has machines on which no groups can be made: why is said. A machine on which they can is
// TestGroup's.
func TestNoGroups(t *testing.T) {
	for name, test := range map[string]struct {
		mounts string // MOUNT stands for a folder
		own    string
		files  map[string]string // in MOUNT
		want   string
	}{
		"no cgroups":      {mounts: "22 1 0:5 / /proc rw - proc proc rw\n", own: "0::/a\n", want: "cgroup v2 is not mounted"},
		"cut short":       {mounts: "22 1 0:5 / MOUNT rw - \nx\n\n - cgroup2", own: "0::/a\n", want: "cgroup v2 is not mounted"},
		"memory is in v1": {own: "4:memory:/x\n0::/a\n", files: map[string]string{"cgroup.controllers": "cpu io\n"}, want: "does not count memory: the machine has cgroup v1 for that"},
		"in no group":     {own: "4:memory:/x\n", want: "this process is in no group of cgroup v2"},
		"outside":         {mounts: "30 1 0:26 /docker/1 MOUNT rw - cgroup2 cgroup2 rw\n", own: "0::/other\n", want: "this process is in the group /other, which is not mounted"},
		"it is not there": {own: "0::/b\n", want: "MOUNT/b was not given to this user (Delegate=yes of systemd does that): no such file or directory"},
		"other processes": {
			own: "0::/a\n", files: map[string]string{"a/cgroup.procs": "OWN\n1\n", "a/cgroup.subtree_control": "\n"},
			want: "MOUNT/a has other processes too, such as 1",
		},
		"memory not counted": {
			own: "0::/a\n", files: map[string]string{"a/cgroup.procs": "", "a/cgroup.subtree_control": "memory\n"},
			want: "its memory is not counted: ",
		},
		"in the leaf": {
			own: "0::/a/lighter-agent\n", files: map[string]string{"a/cgroup.procs": "", "a/cgroup.subtree_control": "memory\n"},
			want: "MOUNT/a/lighter-build-",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(systemdFolder); err == nil && os.Geteuid() == 0 && test.files["a/cgroup.procs"] != "" {
				test.want = "is systemd's, which has not delegated it"
			}
			proc, mount := t.TempDir(), t.TempDir()
			own := fmt.Sprint(os.Getpid())
			mounts := test.mounts
			if mounts == "" {
				mounts = "22 1 0:5 / /proc rw - proc proc rw\n30 1 0:26 / MOUNT rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
			}
			files(t, proc, map[string]string{"self/mountinfo": strings.ReplaceAll(mounts, "MOUNT", mount), "self/cgroup": test.own})
			files(t, mount, map[string]string{"cgroup.type": "domain\n", "cgroup.controllers": "cpu memory\n"})
			for name, text := range test.files {
				files(t, mount, map[string]string{name: strings.ReplaceAll(text, "OWN", own)})
			}
			if err := os.Symlink("/proc/"+own, filepath.Join(proc, own)); err != nil {
				t.Fatal(err)
			}
			m := New(Options{proc: proc})
			b := m.Own(mib)
			want := strings.ReplaceAll(test.want, "MOUNT", mount)
			if b.group != nil || !strings.Contains(b.noGroup, want) {
				t.Errorf("got %q, want %q", b.noGroup, want)
			}
			b.CPU(time.Second)
			if u := b.End(); !strings.Contains(u.Unmeasured, "no limit of memory was set; no control group: ") || u.CPU != 1 {
				t.Errorf("got %+v", u)
			}
			if left, _ := filepath.Glob(filepath.Join(mount, "*", buildPrefix+"*")); len(left) > 0 {
				t.Errorf("%q are left", left)
			}
		})
	}
}

// TestEndOfGroup reads what kernels say of a group.
func TestEndOfGroup(t *testing.T) {
	all := map[string]string{
		"memory.stat":         fmt.Sprintf("anon %d\nfile %d\nshmem %d\nkernel_stack %d\nslab_reclaimable %d\n", 10*mib, 500*mib, 5*mib, mib, 3*mib),
		"memory.swap.current": fmt.Sprint(2 * mib), "memory.events": "low 0\noom 0\noom_kill 0\n",
		"memory.peak": fmt.Sprint(600 * mib), "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
	}
	for name, test := range map[string]struct {
		change  map[string]string // nothing removes the file
		largest int64
		want    store.Measured
	}{
		"above the cache": {want: store.Measured{CPU: 1.5, PeakMemory: 600*mib - 498*mib}},
		"the largest process": {
			largest: 200 * mib, want: store.Measured{CPU: 1.5, PeakMemory: 200 * mib},
		},
		"what was seen": {
			change: map[string]string{"memory.peak": fmt.Sprint(500 * mib)}, want: store.Measured{CPU: 1.5, PeakMemory: 18 * mib},
		},
		"no more than the peak": {
			change: map[string]string{"memory.peak": fmt.Sprint(100 * mib)}, largest: 200 * mib, want: store.Measured{CPU: 1.5, PeakMemory: 102 * mib},
		},
		"killed": {
			change: map[string]string{"memory.events": "oom 1\noom_kill 1\n"}, want: store.Measured{CPU: 1.5, PeakMemory: 602 * mib, KilledForMemory: true},
		},
		"an older kernel": {
			change: map[string]string{"memory.peak": ""},
			want:   store.Measured{CPU: 1.5, PeakMemory: 18 * mib, Unmeasured: "memory: looked at once, since the kernel, older than 5.19, tells no peak"},
		},
		"no swap": {
			change: map[string]string{"memory.swap.current": "", "memory.peak": fmt.Sprint(500 * mib)}, want: store.Measured{CPU: 1.5, PeakMemory: 16 * mib},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			files(t, dir, all)
			for name, text := range test.change {
				if files(t, dir, map[string]string{name: text}); text == "" {
					os.Remove(filepath.Join(dir, name))
				}
			}
			b := &Build{meter: New(Options{NoCgroups: true}), group: &group{dir: dir}, cpu: -1, largest: test.largest}
			test.want.Method = store.MeasuredCgroup
			if got := b.End(); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
	b := &Build{meter: New(Options{NoCgroups: true}), group: &group{dir: t.TempDir()}, cpu: -1}
	u := b.End()
	for _, want := range []string{"whether it was killed for memory: ", "memory: looked at 0 times", "processor time: "} {
		if !strings.Contains(u.Unmeasured, want) {
			t.Errorf("%q lacks %q", u.Unmeasured, want)
		}
	}
}
