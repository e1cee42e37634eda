{{/* One operator a release; a second release gets a name of its own. */}}
{{- define "collab-operator.name" -}}
{{- printf "%s-operator" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "collab-operator.selector" -}}
app.kubernetes.io/name: collab-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "collab-operator.labels" -}}
{{ include "collab-operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What reconciling needs, and nothing else. Secrets are created, never read. */}}
{{- define "collab-operator.rules" -}}
- apiGroups: [collabcluster.io]
  resources: [collabclusters]
  verbs: [get, list, watch]
- apiGroups: [collabcluster.io]
  resources: [collabclusters/status]
  verbs: [get, patch]
# Owner references that block deletion need it where the admission plug-in for them is on.
- apiGroups: [collabcluster.io]
  resources: [collabclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
