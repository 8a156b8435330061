package simulation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/scheduler/simulate"
)

func testFleet() []simulate.Machine {
	return []simulate.Machine{
		{Name: "big1", Slots: 4, Speed: 2, Bandwidth: 1e6, Price: 3},
		{Name: "big2", Slots: 4, Speed: 2, Bandwidth: 1e6, FetchBandwidth: 2e6},
		{Name: "small", Slots: 1, Speed: 1, Memory: 1 << 30},
	}
}

// text shows what a what-if can change.
func text(fleet []simulate.Machine) string {
	var parts []string
	for i := range fleet {
		m := &fleet[i]
		part := fmt.Sprintf("%s %d×%g %g/%g", m.Name, m.Slots, m.Speed, m.Bandwidth, m.FetchBandwidth)
		for _, a := range m.Away {
			part += fmt.Sprintf(" %s-%s", a.From, a.To)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

func TestWhatIf(t *testing.T) {
	const same = "big1 4×2 1e+06/0; big2 4×2 1e+06/2e+06; small 1×1 0/0"
	for what, want := range map[string]string{
		"add 2 like small":                      same + "; small+1 1×1 0/0; small+2 1×1 0/0",
		"add 1 like small, add 1 like small":    same + "; small+1 1×1 0/0; small+2 1×1 0/0",
		"remove big*":                           "small 1×1 0/0",
		"big* speed 0.5 slots 8":                "big1 8×0.5 1e+06/0; big2 8×0.5 1e+06/2e+06; small 1×1 0/0",
		"big2 bandwidth 100MB/s":                "big1 4×2 1e+06/0; big2 4×2 1e+08/0; small 1×1 0/0",
		"small away 2h..6h, small away 90m..2h": "big1 4×2 1e+06/0; big2 4×2 1e+06/2e+06; small 1×1 0/0 1h30m0s-2h0m0s 2h0m0s-6h0m0s",
		" add  1 like big1 , big1+1 slots 2 , remove big2, remove small": "big1 4×2 1e+06/0; big1+1 2×2 1e+06/0",
	} {
		fleet := testFleet()
		got, err := whatIf(fleet, what)
		if err != nil {
			t.Errorf("%q: %v", what, err)
			continue
		}
		if diff := cmp.Diff(want, text(got)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", what, diff)
		}
		if text(fleet) != same {
			t.Errorf("%q: the fleet itself is %s", what, text(fleet))
		}
	}
}

func TestWhatIfErrors(t *testing.T) {
	for what, want := range map[string]string{
		"":                              "it says nothing; want one of: add N like NAME",
		"remove big1,":                  "it says nothing",
		"ad 2 like big1":                `"ad": did you mean add?`,
		"add two like big1":             `add "two": want a number from 1 to 1000`,
		"add 0 like big1":               `add "0": want a number`,
		"add 1001 like big1":            `want a number from 1 to 1000`,
		"add 2 big1":                    "add N like NAME",
		"add 2 like bgi1":               `no machine is called "bgi1"; did you mean "big1"?`,
		"add 2 like big*":               `"big*" means 2 machines: like wants one of them`,
		"remove":                        "remove NAME",
		"remove xyzzy":                  `no machine is called "xyzzy"; they are big1, big2, small`,
		"remove [":                      `"[" is no pattern`,
		"remove *":                      "no machine is left",
		"small":                         "what of small? want one of: speed X",
		"small slots":                   `"slots" wants a value`,
		"small sped 2":                  `small sped: machines have no such thing; did you mean "speed"?`,
		"small colour red":              `there are speed, slots, bandwidth, memory, away`,
		"small speed fast":              `small speed: "fast": want a number such as 2 or 0.5`,
		"small speed NaN":               `want a number`,
		"small speed 0":                 `want a number`,
		"small slots 1.5":               `small slots: "1.5": want a number from 1 to 10000`,
		"small bandwidth 0":             `want bytes in a second, such as 50MB`,
		"small memory much":             `want a size such as 64GiB`,
		"small away 6h..2h":             `want two times after the start, such as 2h..6h`,
		"small away 2h":                 `want two times`,
		"small away 2h..6h away 3h..4h": `"3h..4h": it is away then already`,
		"\x1b[2J":                       `"\x1b[2J" is no pattern`,
	} {
		_, err := whatIf(testFleet(), what)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", what, err, want)
		}
	}
	many := strings.TrimSuffix(strings.Repeat("add 1000 like big1,", 11), ",")
	if _, err := whatIf(testFleet(), many); err == nil || !strings.Contains(err.Error(), "at most 10000") {
		t.Errorf("got %v", err)
	}
}

func TestPrices(t *testing.T) {
	fleet := testFleet()
	if err := setEach(fleet, []string{"big*=0.12/h", "small=1"}, setPrice); err != nil {
		t.Fatal(err)
	}
	if fleet[1].Price != 0.12 || fleet[2].Price != 1 {
		t.Errorf("got %v", fleet)
	}
	for bad, want := range map[string]string{
		"big1": "want NAME=VALUE", "big1=much": "want the price of an hour", "big1=-1": "want the price", "big1=NaN": "want the price", "x=1": `no machine is called "x"`,
	} {
		if err := setEach(fleet, []string{bad}, setPrice); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", bad, err, want)
		}
	}
}

func FuzzWhatIf(f *testing.F) {
	f.Add("add 2 like big1, small away 2h..6h, big* speed 3")
	f.Fuzz(func(t *testing.T, text string) {
		fleet, err := whatIf(testFleet(), text)
		if err != nil {
			return
		}
		g := &simulate.Graph{}
		g.Add(simulate.Node{Name: "a", System: "x86_64-linux", Duration: time.Second})
		// What it makes is a fleet that can be played.
		if _, err := simulate.Run(t.Context(), simulate.Scenario{Graph: g, Machines: fleet}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
