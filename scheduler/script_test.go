package scheduler

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
	s := newScript()
	var got strings.Builder
	lines := strings.Split(strings.TrimSuffix(string(want), "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		got.WriteString(lines[i] + "\n")
		output, err := s.run(lines[i])
		if err != nil {
			t.Fatalf("%s:%d: %v", file, i+1, err)
		}
		if output == nil {
			continue
		}
		got.WriteString("----\n")
		for _, line := range output {
			got.WriteString(line + "\n")
		}
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
	start, now time.Time
	machines   []Machine
	queue      *Queue
	seq        uint64
	missing    map[[2]string]Lack // by build and machine
	soon       []Soon
	shares     *Shares
	weights    map[string]float64
}

func newScript() *script {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &script{start: start, now: start, queue: NewQueue(), missing: make(map[[2]string]Lack), weights: make(map[string]float64)}
}

func (s *script) lacks(b *Build, machine string) Lack {
	return s.missing[[2]string{b.ID, machine}]
}

// run executes one line; output is nil for a command that has none.
func (s *script) run(line string) (output []string, err error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return nil, nil
	}
	switch words[0] {
	case "machine":
		return nil, s.machine(words[1], words[2:])
	case "build":
		return nil, s.build(words[1], words[2:])
	case "missing":
		n, err := strconv.ParseInt(words[3], 10, 64)
		lack := Lack{Bytes: n}
		if len(words) > 4 && err == nil {
			lack.Gather, err = time.ParseDuration(words[4])
		}
		s.missing[[2]string{words[1], words[2]}] = lack
		return nil, err
	case "soon": // soon NAME TIME KEY=VALUE…: a build that is ready after that time
		ready, err := time.ParseDuration(words[2])
		if err == nil {
			err = s.build(words[1], words[3:])
		}
		b, _ := s.queue.Get(words[1])
		s.queue.Remove(words[1])
		s.soon = append(s.soon, Soon{Build: &b, Ready: ready})
		return nil, err
	case "share":
		return nil, s.share(words[1:])
	case "remove":
		if !s.queue.Remove(words[1]) {
			return nil, fmt.Errorf("no build %s", words[1])
		}
		return nil, nil
	case "reprioritise":
		priority, err := strconv.Atoi(words[2])
		b, _ := s.queue.Get(words[1])
		if !s.queue.Reprioritise(words[1], priority, b.Rank, b.Dependants) {
			return nil, fmt.Errorf("no build %s", words[1])
		}
		return nil, err
	case "advance":
		d, err := time.ParseDuration(words[1])
		s.advance(d)
		return nil, err
	case "assign":
		return s.assign(), nil
	case "queue":
		output := []string{}
		for b := range s.queue.All() {
			output = append(output, b.ID)
		}
		return []string{strings.Join(output, " ")}, nil
	case "explain":
		b, ok := s.queue.Get(words[1])
		if !ok {
			return nil, fmt.Errorf("no build %s", words[1])
		}
		for _, v := range Explain(&b, s.machines, s.lacks) {
			line := v.String()
			if v.Finish > 0 {
				line += fmt.Sprintf("; finish in %s", v.Finish)
			}
			output = append(output, line)
		}
		return output, nil
	}
	return nil, fmt.Errorf("unknown command %q", words[0])
}

func (s *script) machine(name string, settings []string) error {
	i := slices.IndexFunc(s.machines, func(m Machine) bool { return m.Name == name })
	if i < 0 {
		i = len(s.machines)
		s.machines = append(s.machines, Machine{
			Name: name, Systems: []string{"x86_64-linux"}, Slots: 1, Speed: 1, FreeDisk: -1, Bandwidth: 1000,
		})
	}
	m := &s.machines[i]
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		var err error
		switch key {
		case "system":
			m.Systems = strings.Split(value, ",")
		case "features":
			m.Features = strings.Split(value, ",")
		case "mandatory":
			m.MandatoryFeatures = strings.Split(value, ",")
		case "slots":
			m.Slots, err = strconv.Atoi(value)
		case "speed":
			m.Speed, err = strconv.ParseFloat(value, 64)
		case "bandwidth":
			m.Bandwidth, err = strconv.ParseFloat(value, 64)
		case "fetch-bandwidth":
			m.FetchBandwidth, err = strconv.ParseFloat(value, 64)
		case "fetching":
			m.Fetching, err = strconv.ParseInt(value, 10, 64)
		case "memory":
			m.Memory, err = strconv.ParseInt(value, 10, 64)
		case "tokens":
			m.Tokens, err = tokens(value)
		case "host":
			m.Host = value
		case "pending":
			m.Pending, err = strconv.ParseInt(value, 10, 64)
		case "load":
			m.Load, err = strconv.ParseFloat(value, 64)
		case "own-load":
			m.OwnLoad, err = strconv.ParseFloat(value, 64)
			m.OwnKnown = true
		case "threshold":
			m.OverloadThreshold, err = strconv.ParseFloat(value, 64)
		case "cores":
			m.Cores, err = strconv.Atoi(value)
		case "just-started":
			m.JustStarted, err = strconv.Atoi(value)
		case "free":
			m.FreeDisk, err = strconv.ParseInt(value, 10, 64)
		case "min-free":
			m.MinFreeDisk, err = strconv.ParseInt(value, 10, 64)
		case "unavailable":
			m.Unavailable = strings.ReplaceAll(value, "_", " ")
		case "refuses":
			m.Refuses = strings.ReplaceAll(value, "_", " ")
		case "busy":
			m.Busy = nil
			for text := range strings.SplitSeq(value, ",") {
				if d, e := time.ParseDuration(text); e == nil {
					m.Busy = append(m.Busy, Running{Remaining: d})
				}
			}
		default:
			err = fmt.Errorf("unknown setting %q", setting)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *script) build(name string, settings []string) error {
	s.seq++
	b := Build{ID: name, System: "x86_64-linux", Seq: s.seq}
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		var err error
		switch key {
		case "system":
			b.System = value
		case "features":
			b.Features = strings.Split(value, ",")
		case "skip":
			b.Skip = strings.Split(value, ",")
		case "priority":
			b.Priority, err = strconv.Atoi(value)
		case "rank":
			b.Rank, err = time.ParseDuration(value)
		case "dependants":
			b.Dependants, err = strconv.Atoi(value)
		case "takes":
			b.Expected, err = time.ParseDuration(value)
		case "output":
			b.Output, err = strconv.ParseInt(value, 10, 64)
		case "share":
			b.Share = value
		case "memory":
			b.Memory, err = strconv.ParseInt(value, 10, 64)
		case "tokens":
			b.Tokens, err = tokens(value)
		default:
			err = fmt.Errorf("unknown setting %q", setting)
		}
		if err != nil {
			return err
		}
	}
	s.queue.Push(b)
	return nil
}

// tokens reads "gpu:2,licence:1".
func tokens(text string) (map[string]int, error) {
	tokens := make(map[string]int)
	for word := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(word, ":")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, err
		}
		tokens[name] = n
	}
	return tokens, nil
}

// share has turns taken from now on, and sets what a share has used and may use.
func (s *script) share(words []string) error {
	if s.shares == nil {
		s.shares = NewShares(time.Hour, func(share string) float64 { return s.weights[share] })
	}
	for _, setting := range words[1:] {
		key, value, _ := strings.Cut(setting, "=")
		var err error
		switch key {
		case "weight":
			s.weights[words[0]], err = strconv.ParseFloat(value, 64)
		case "used":
			var d time.Duration
			d, err = time.ParseDuration(value)
			s.shares.Use(words[0], d, s.now)
		default:
			err = fmt.Errorf("unknown setting %q", setting)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// advance lets the time pass; builds end when they were expected to.
func (s *script) advance(d time.Duration) {
	s.now = s.now.Add(d)
	for i := range s.machines {
		m := &s.machines[i]
		var busy []Running
		for _, b := range m.Busy {
			if b.Remaining > d {
				busy = append(busy, Running{Build: b.Build, Remaining: b.Remaining - d, Elapsed: b.Elapsed + d, Once: b.Once})
			}
			if b.Build != nil && s.shares != nil {
				s.shares.Use(b.Build.Share, min(d, b.Remaining), s.now)
			}
		}
		m.Busy = busy
	}
}

// assign plans a round and carries it out.
func (s *script) assign() []string {
	p := Assign(Input{Now: s.now, Machines: s.machines, Queue: s.queue, Missing: s.lacks, Shares: s.shares, Soon: s.soon})
	output := []string{}
	for _, a := range p.Assignments {
		line := fmt.Sprintf("%s -> %s, finish in %s", a.Build.ID, a.Machine, a.Finish)
		if a.Missing > 0 {
			line += fmt.Sprintf(", sends %d", a.Missing)
		}
		output = append(output, line)
		i := slices.IndexFunc(s.machines, func(m Machine) bool { return m.Name == a.Machine })
		s.machines[i].Busy = append(s.machines[i].Busy, Running{Build: a.Build, Remaining: a.Finish})
	}
	for _, d := range p.Deferrals {
		output = append(output, fmt.Sprintf("%s %s, until %s", d.Build.ID, d.Reason(), d.Until.Sub(s.start)))
	}
	for _, a := range p.Again {
		output = append(output, fmt.Sprintf("%s again -> %s, finish in %s instead of %s on %s", a.Build.ID, a.To, a.Finish, a.Instead, a.From))
	}
	for _, b := range p.Blocked {
		word := "now"
		if b.Never {
			word = "never"
		}
		output = append(output, fmt.Sprintf("blocked %s: %d × %s %s: %s", word, b.Builds, b.System, list(b.Features), b.Reason))
	}
	s.queue.Apply(p)
	if len(output) == 0 {
		output = []string{"nothing"}
	}
	return output
}

func TestInfiniteBandwidth(t *testing.T) {
	s := newScript()
	s.machines = []Machine{{Name: "head", Systems: []string{"x86_64-linux"}, Slots: 1, FreeDisk: -1, Bandwidth: math.Inf(1)}}
	s.missing[[2]string{"b", "head"}] = Lack{Bytes: 1 << 60}
	s.queue.Push(Build{ID: "b", System: "x86_64-linux", Expected: time.Second})
	if got := s.assign(); !slices.Equal(got, []string{"b -> head, finish in 1s, sends 1152921504606846976"}) {
		t.Errorf("got %q", got)
	}
}
