package simulate_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lighter/scheduler/simulate"
)

var update = flag.Bool("update", false, "rewrite the expected outputs")

// TestScripts runs testdata/*.txt; the README there tells the language.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := script{Scenario: simulate.Scenario{Graph: &simulate.Graph{}, Weights: make(map[string]float64)}, builds: make(map[string]int)}
	var got strings.Builder
	lines := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		got.WriteString(lines[i] + "\n")
		output, err := s.do(t, lines[i])
		if err != nil {
			t.Fatalf("%s:%d: %v", file, i+1, err)
		}
		if output == nil {
			continue
		}
		got.WriteString("----\n" + strings.Join(output, "\n") + "\n")
		if i+1 < len(lines) && lines[i+1] == "----" { // the old output, up to an empty line
			for i++; i+1 < len(lines) && lines[i+1] != ""; i++ {
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// script is the state of one script.
type script struct {
	simulate.Scenario
	builds map[string]int
	known  string
	last   *simulate.Result
}

// do executes one line; output is nil for a command that has none.
func (s *script) do(t *testing.T, line string) (output []string, err error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return nil, nil
	}
	switch words[0] {
	case "machine":
		return nil, s.machine(words[1], words[2:])
	case "build":
		return nil, s.build(words[1], words[2:])
	case "share":
		s.Weights[words[1]], err = strconv.ParseFloat(words[2], 64)
		return nil, err
	case "set":
		for _, setting := range words[1:] {
			if err := s.set(setting); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "play":
		return s.play(t), nil
	case "shares":
		for _, share := range s.last.Shares {
			output = append(output, fmt.Sprintf("%s: %v", share.Name, share.Hours))
		}
		return output, nil
	case "waits":
		for _, w := range s.last.Requests {
			output = append(output, fmt.Sprintf("request %d waited %s, took %s, slowdown %.2f", w.Request, w.Wait, w.Took, w.Slowdown))
		}
		return output, nil
	}
	return nil, fmt.Errorf("unknown command %q", words[0])
}

func (s *script) machine(name string, settings []string) error {
	i := slices.IndexFunc(s.Machines, func(m simulate.Machine) bool { return m.Name == name })
	if i < 0 {
		i = len(s.Machines)
		s.Machines = append(s.Machines, simulate.Machine{Name: name, Slots: 1, Speed: 1, Bandwidth: 1e6})
	}
	m := &s.Machines[i]
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		var err error
		switch key {
		case "slots":
			m.Slots, err = strconv.Atoi(value)
		case "speed":
			m.Speed, err = strconv.ParseFloat(value, 64)
		case "configured":
			m.Configured, err = strconv.ParseFloat(value, 64)
		case "bandwidth":
			m.Bandwidth, err = strconv.ParseFloat(value, 64)
		case "fetch":
			m.FetchBandwidth, err = strconv.ParseFloat(value, 64)
		case "delay":
			m.Delay, err = time.ParseDuration(value)
		case "memory":
			m.Memory, err = strconv.ParseInt(value, 10, 64)
		case "hidden":
			m.HideMemory = value != "no"
		case "fails":
			m.Fails, err = strconv.ParseFloat(value, 64)
		case "price":
			m.Price, err = strconv.ParseFloat(value, 64)
		case "features":
			m.Features = strings.Split(value, ",")
		case "tokens":
			m.Tokens, err = tokens(value)
		case "away":
			from, to, _ := strings.Cut(value, "-")
			var a simulate.Interval
			if a.From, err = time.ParseDuration(from); err == nil {
				a.To, err = time.ParseDuration(to)
			}
			m.Away = append(m.Away, a)
		default:
			err = fmt.Errorf("unknown setting %q", setting)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func tokens(text string) (map[string]int, error) {
	name, number, _ := strings.Cut(text, ":")
	n, err := strconv.Atoi(number)
	return map[string]int{name: n}, err
}

func (s *script) build(name string, settings []string) error {
	n := simulate.Node{Name: name, System: "x86_64-linux", Duration: time.Minute}
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		var err error
		switch key {
		case "takes":
			n.Duration, err = time.ParseDuration(value)
		case "output":
			n.Output, err = strconv.ParseInt(value, 10, 64)
		case "memory":
			n.Memory, err = strconv.ParseInt(value, 10, 64)
		case "tokens":
			n.Tokens, err = tokens(value)
		case "features":
			n.Features = strings.Split(value, ",")
		case "inputs":
			for input := range strings.SplitSeq(value, ",") {
				i, ok := s.builds[input]
				if !ok {
					return fmt.Errorf("no build %s", input)
				}
				n.Inputs = append(n.Inputs, int32(i))
			}
		case "at":
			n.Submitted, err = time.ParseDuration(value)
		case "share":
			n.Share = value
		case "priority":
			n.Priority, err = strconv.Atoi(value)
		case "request":
			n.Request, err = strconv.Atoi(value)
		case "wanted":
			n.Wanted = true
		default:
			err = fmt.Errorf("unknown setting %q", setting)
		}
		if err != nil {
			return err
		}
	}
	s.builds[name] = s.Graph.Add(n)
	return nil
}

func (s *script) set(setting string) (err error) {
	key, value, _ := strings.Cut(setting, "=")
	switch key {
	case "policy":
		s.Policy = simulate.Policy(value)
	case "known":
		s.known = value
	case "hook":
		s.Hook = true
		s.HookJobs, err = strconv.Atoi(value)
	case "lazy":
		s.LazyHome = value == "yes"
	case "half-life":
		s.HalfLife, err = time.ParseDuration(value)
	default:
		err = fmt.Errorf("unknown setting %q", setting)
	}
	return err
}

// play runs the scenario and says what happened.
func (s *script) play(t *testing.T) (output []string) {
	s.Estimate = nil
	if s.known == "nothing" {
		s.Estimate = simulate.Nothing()
	}
	r, err := simulate.Run(t.Context(), s.Scenario)
	if err != nil {
		return []string{err.Error()}
	}
	s.last = r
	for _, span := range r.Spans {
		line := fmt.Sprintf("%s on %s: placed %s", s.Graph.Nodes[span.Node].Name, s.Machines[span.Machine].Name, span.Placed)
		if span.Outcome == simulate.Done {
			line += fmt.Sprintf(", built %s to %s", span.Began, span.Ended)
		} else {
			line += fmt.Sprintf(", %s %s", span.Outcome, span.Ended)
		}
		if span.Released != span.Ended {
			line += fmt.Sprintf(", slot free %s", span.Released)
		}
		output = append(output, line)
	}
	line := fmt.Sprintf("makespan %s, %.2f times the bound; sent %d, fetched %d", r.Makespan, r.Ratio, r.Sent(), r.Fetched())
	for _, count := range []struct {
		name string
		n    int
	}{{"killed", r.Kills}, {"retried", r.Retried}, {"begun again", r.Again}} {
		if count.n > 0 {
			line += fmt.Sprintf("; %d %s", count.n, count.name)
		}
	}
	if r.Wasted > 0 {
		line += fmt.Sprintf("; wasted %s", r.Wasted)
	}
	if cost := r.Cost(); cost > 0 {
		line += fmt.Sprintf("; cost %.2f", cost)
	}
	return append(output, line)
}
