package standstill

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"lighter/scheduler"
)

func TestTell(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	var l Log
	for _, tt := range []struct {
		name    string
		blocked []scheduler.Blocked
		want    string
	}{
		{"busy", []scheduler.Blocked{{System: "x86_64-linux", Reason: "m1: 2 of 2 taken"}}, ""},
		{"none", []scheduler.Blocked{{System: "riscv64-linux", Builds: 2, Absent: true, Reason: "no machine builds for riscv64-linux"}}, `builds=2 system=riscv64-linux features="" why="no machine builds for riscv64-linux"`},
		{"still none", []scheduler.Blocked{{System: "riscv64-linux", Builds: 3, Absent: true, Reason: "no machine builds for riscv64-linux"}}, ""},
		{"another reason", []scheduler.Blocked{{System: "riscv64-linux", Builds: 3, Absent: true, Reason: "m2: down"}}, "m2: down"},
		{"placed", nil, "no builds wait without a machine any more"},
		{"nothing", nil, ""},
	} {
		text.Reset()
		l.Tell(log, tt.blocked)
		if got := text.String(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: logged %q, want %q", tt.name, got, tt.want)
		}
	}
}
