// Command coredns is CoreDNS with the few plugins that the test cluster's Corefile names.
//
// In: CoreDNS's own flags. Out: a DNS server. The stock command links forty more plugins and their clouds' libraries.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	coremain.Run()
}
