package simulate

import (
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// Model says from which distributions the durations, sizes and peaks of a graph of names come. All
// are lognormal: a median, and sigma, the deviation of the logarithm.
type Model struct {
	// WithoutGiants has what is known to take hours take what any package may.
	WithoutGiants bool
	// Seed of the randomness.
	Seed uint64
}

const (
	sourceMedian, sourceSigma     = 3.0, 1.0 // seconds
	archiveMedian, archiveSigma   = 6.0, 0.8
	packageMedian                 = 60.0
	packageSigma, nodeSigma       = 1.24, 0.4 // a package's, and of each of its nodes beside that
	giantSigma                    = 0.3
	outputMedian, outputSigma     = 2 << 20, 2.0 // bytes
	memoryMedian                  = 512 << 20
	memorySigma, memoryNodeSigma  = 1.1, 0.3
	smallMemory                   = 64 << 20
	maxMemory                     = 7 << 30
	minDuration, minOutput        = 0.1, 1024
	maxDurationHours, maxOutputGB = 48, 20
)

// giants are packages that take hours, wherever they are built.
var giants = map[string]float64{ // hours at speed 1
	"gcc": 40. / 60, "gccgo": 40. / 60, "gcc-cross-boot0": 40. / 60, "gcc-mesboot": 40. / 60,
	"llvm": 1, "clang": 0.75, "rust": 1, "ghc": 1.5, "icecat": 2.5, "icecat-minimal": 2.5,
	"webkitgtk": 3, "webkitgtk-for-gtk3": 3, "libreoffice": 3, "qtwebengine": 6, "ungoogled-chromium": 8,
	"icedove": 2.5, "torbrowser": 2.5, "mullvadbrowser": 2.5, "librewolf": 2.5, "node": 0.75, "openjdk": 0.5,
	"tensorflow": 3, "python-pytorch": 2, "linux-libre": 0.75, "mesa": 0.25, "boost": 0.3, "sage": 2,
}

// Apply gives all nodes their durations, sizes and peaks. The builds of one package are alike.
func (m *Model) Apply(g *Graph) {
	rng := random(m.Seed, 1)
	perPackage := make(map[string][2]float64) // by name and class, of the duration and of the peak
	for i := range g.Nodes {
		n := &g.Nodes[i]
		name := packageName(n.Name)
		own, ok := perPackage[name]
		if !ok {
			own = [2]float64{rng.NormFloat64(), rng.NormFloat64()}
			perPackage[name] = own
		}
		node, peak := rng.NormFloat64(), rng.NormFloat64()
		hours, giant := giants[name]
		n.Memory = smallMemory
		switch {
		case n.Source:
			n.Duration = seconds(sourceMedian * math.Exp(sourceSigma*node))
		case isArchive(n.Name):
			n.Duration = seconds(archiveMedian * math.Exp(archiveSigma*node))
		default:
			n.Duration = seconds(packageMedian * math.Exp(packageSigma*own[0]+nodeSigma*node))
			if giant && !m.WithoutGiants {
				n.Duration = seconds(hours * 3600 * math.Exp(giantSigma*node))
			}
			n.Memory = int64(min(maxMemory, memoryMedian*math.Exp(memorySigma*own[1]+memoryNodeSigma*peak)))
		}
		n.Output = int64(min(maxOutputGB*1e9, max(minOutput, outputMedian*math.Exp(outputSigma*rng.NormFloat64()))))
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(min(maxDurationHours*3600, max(minDuration, s)) * float64(time.Second))
}

// packageName is a name without its version.
func packageName(name string) string {
	for i := 0; i+1 < len(name); i++ {
		if name[i] == '-' && name[i+1] >= '0' && name[i+1] <= '9' {
			return name[:i]
		}
	}
	return name
}

// isArchive reports whether a build only packs files again, or compiles a few modules.
func isArchive(name string) bool {
	if strings.HasPrefix(name, "module-import") {
		return true
	}
	for _, suffix := range []string{".tar", ".gz", ".xz", ".bz2", ".zst", ".lz", ".zip", ".tgz", ".gem", "-checkout"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// lognormal returns a factor whose median is 1.
func lognormal(rng *rand.Rand, sigma float64) float64 { return math.Exp(sigma * rng.NormFloat64()) }
