// flux applies the manifests on stdin as Flux's kustomize-controller does, and prints what it did with each object:
// "Secret/NAMESPACE/NAME created", "configured", "unchanged".
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	"github.com/fluxcd/pkg/ssa/utils"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	controller = "kustomize-controller"
	group      = "kustomize.toolkit.fluxcd.io"
)

var (
	kubeconfig = flag.String("kubeconfig", "", "kubeconfig of the cluster")
	namespace  = flag.String("namespace", "", "namespace of the Kustomization")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	check(err)
	kube, err := client.New(config, client.Options{})
	check(err)
	objects, err := utils.ReadObjects(os.Stdin)
	check(err)
	check(normalize.UnstructuredList(objects))

	manager := ssa.NewResourceManager(kube, nil, ssa.Owner{Field: controller, Group: group})
	manager.SetOwnerLabels(objects, "tests", *namespace)
	changes, err := manager.ApplyAll(context.Background(), objects, options())
	check(err)
	fmt.Println(changes)
}

// What kustomize-controller gives, where a Kustomization sets nothing.
func options() ssa.ApplyOptions {
	options := ssa.DefaultApplyOptions()
	options.ExclusionSelector = map[string]string{group + "/reconcile": "disabled", group + "/ssa": "Ignore"}
	options.IfNotPresentSelector = map[string]string{group + "/ssa": "IfNotPresent"}
	options.ForceSelector = map[string]string{group + "/force": "enabled"}
	options.Cleanup = ssa.ApplyCleanupOptions{
		Annotations: []string{corev1.LastAppliedConfigAnnotation},
		FieldManagers: []ssa.FieldManager{
			{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationApply},
			{Name: "kubectl", OperationType: metav1.ManagedFieldsOperationUpdate},
			{Name: "before-first-apply", OperationType: metav1.ManagedFieldsOperationUpdate},
			{Name: controller, OperationType: metav1.ManagedFieldsOperationUpdate},
		},
		Exclusions: map[string]string{group + "/ssa": "Merge"},
	}
	return options
}

func check(err error) {
	if err != nil {
		log.Fatalln(err)
	}
}
