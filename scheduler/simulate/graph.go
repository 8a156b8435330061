package simulate

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Graph is what is to be built. Inputs come before what needs them. Its first use in a scenario, or for a
// bound, writes to it; after that it may be used by several at a time.
type Graph struct {
	Nodes []Node
	// dependants has, for each node, who needs it; link makes it.
	dependants [][]int32
}

// Node is one build of a graph.
type Node struct {
	Name     string
	System   string
	Features []string
	Inputs   []int32 // indices of nodes before this one
	Source   bool    // its output is fixed: a download
	Local    bool    // it prefers to be built at home
	Wanted   bool    // somebody asked for it: its outputs go home

	Duration time.Duration // the builder's, at speed 1
	Output   int64         // bytes
	Memory   int64         // bytes, the most that it uses; 0 if it needs nothing worth counting
	Tokens   map[string]int

	// Submitted is when it comes in, after the start. What it needs comes in at the latest then.
	Submitted time.Duration
	// Request tells those apart who ask: the builds of one have one submission, or one session of
	// guix-daemon. Requests other than 0 are small ones whose waits are looked at (see Result).
	Request  int
	Share    string
	Priority int
}

// class tells builds apart that different machines may take.
func (n *Node) class() string {
	if len(n.Features) == 0 {
		return n.System
	}
	return n.System + "\x00" + strings.Join(n.Features, "\x01")
}

const (
	// These bound what is read.
	maxNodes  = 2_000_000
	maxEdges  = 50_000_000
	maxLine   = 1 << 20
	maxString = 4096
)

// ReadGraph reads a graph as a table of six columns, separated by tabs: index, name, system, flags
// (F: fixed output, L: prefers to be built at home, R: asked for), features and inputs (indices of
// lines before it), the last two separated by commas. Lines that start with "#" are comments. An
// error names the line.
func ReadGraph(r io.Reader) (*Graph, error) {
	g := &Graph{}
	edges := 0
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	words := make(map[string]string) // names that are there often are kept once
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		n, err := parseNode(line, len(g.Nodes), words)
		if err != nil {
			return nil, fmt.Errorf("graph, line %d: %w", number, err)
		}
		if edges += len(n.Inputs); len(g.Nodes) >= maxNodes || edges > maxEdges {
			return nil, fmt.Errorf("graph, line %d: too many builds or inputs: at most %d and %d", number, maxNodes, maxEdges)
		}
		g.Nodes = append(g.Nodes, n)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("graph: %w", err)
	}
	return g, nil
}

func parseNode(line string, index int, words map[string]string) (n Node, err error) {
	columns := strings.Split(line, "\t")
	if len(columns) != 6 {
		return n, fmt.Errorf("%d columns: want 6: index, name, system, flags, features, inputs", len(columns))
	}
	if columns[0] != strconv.Itoa(index) {
		return n, fmt.Errorf("index %.40q: want %d", columns[0], index)
	}
	if columns[1] == "" || len(columns[1]) > maxString || columns[2] == "" || len(columns[2]) > maxString {
		return n, fmt.Errorf("a name and a system of 1 to %d bytes are wanted", maxString)
	}
	n.Name, n.System = strings.Clone(columns[1]), intern(words, columns[2])
	for _, flag := range columns[3] {
		switch flag {
		case 'F':
			n.Source = true
		case 'L':
			n.Local = true
		case 'R':
			n.Wanted = true
		default:
			return n, fmt.Errorf("flag %q: want F, L or R", flag)
		}
	}
	if columns[4] != "" {
		for feature := range strings.SplitSeq(columns[4], ",") {
			n.Features = append(n.Features, intern(words, feature))
		}
	}
	if columns[5] == "" {
		return n, nil
	}
	n.Inputs = make([]int32, 0, strings.Count(columns[5], ",")+1)
	for text := range strings.SplitSeq(columns[5], ",") {
		in, err := strconv.ParseInt(text, 10, 32)
		if err != nil || in < 0 || int(in) >= index {
			return n, fmt.Errorf("input %.40q: want the index of a line before it", text)
		}
		n.Inputs = append(n.Inputs, int32(in))
	}
	return n, nil
}

func intern(words map[string]string, word string) string {
	known, ok := words[word]
	if !ok {
		known = strings.Clone(word)
		words[known] = known
	}
	return known
}

// check looks at what a graph made by hand could have wrong.
func (g *Graph) check() error {
	if len(g.Nodes) > maxNodes {
		return fmt.Errorf("simulate: %d builds: at most %d", len(g.Nodes), maxNodes)
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		for _, in := range n.Inputs {
			if in < 0 || int(in) >= i {
				return fmt.Errorf("simulate: build %d (%s): input %d is not before it", i, n.Name, in)
			}
		}
		if n.Duration < 0 || n.Output < 0 || n.Memory < 0 || n.Submitted < 0 || n.Duration > 10*365*24*time.Hour {
			return fmt.Errorf("simulate: build %d (%s): its duration, sizes and time must not be negative or absurd", i, n.Name)
		}
	}
	return nil
}

// link returns, for each node, who needs it. An input that a node names twice counts once.
func (g *Graph) link() [][]int32 {
	if len(g.dependants) == len(g.Nodes) {
		return g.dependants
	}
	count := make([]int32, len(g.Nodes))
	total := 0
	for i := range g.Nodes {
		n := &g.Nodes[i]
		if !slices.IsSorted(n.Inputs) || len(slices.Compact(slices.Clone(n.Inputs))) != len(n.Inputs) {
			n.Inputs = slices.Clone(n.Inputs)
			slices.Sort(n.Inputs)
			n.Inputs = slices.Compact(n.Inputs)
		}
		for _, in := range n.Inputs {
			count[in]++
		}
		total += len(n.Inputs)
	}
	all := make([]int32, total)
	g.dependants = make([][]int32, len(g.Nodes))
	for i := range g.Nodes {
		g.dependants[i], all = all[:0:count[i]], all[count[i]:]
	}
	for i := range g.Nodes {
		for _, in := range g.Nodes[i].Inputs {
			g.dependants[in] = append(g.dependants[in], int32(i))
		}
	}
	return g.dependants
}

// Clone returns a copy whose nodes can be changed apart. It shares inputs, features and tokens.
func (g *Graph) Clone() *Graph {
	return &Graph{Nodes: slices.Clone(g.Nodes), dependants: g.dependants}
}

// Add puts a build at the end and returns its index.
func (g *Graph) Add(n Node) int {
	g.dependants = nil
	g.Nodes = append(g.Nodes, n)
	return len(g.Nodes) - 1
}

// Work returns how long all builds take together, at speed 1.
func (g *Graph) Work() time.Duration {
	var sum time.Duration
	for i := range g.Nodes {
		sum += g.Nodes[i].Duration
	}
	return sum
}

// wanted returns which outputs go home: those that were asked for, and those that nothing else needs.
func (g *Graph) wanted() []bool {
	dependants := g.link()
	wanted := make([]bool, len(g.Nodes))
	for i := range g.Nodes {
		wanted[i] = g.Nodes[i].Wanted || len(dependants[i]) == 0
	}
	return wanted
}
