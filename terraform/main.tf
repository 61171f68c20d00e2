# A subordinate has no units of its own: it comes with those of nova-compute, once it is related.
resource "juju_application" "nova_compute_nvidia_vgpu" {
  name       = var.app_name
  model_uuid = var.model_uuid

  charm {
    name     = "nova-compute-nvidia-vgpu"
    base     = var.base
    channel  = var.channel
    revision = var.revision
  }

  config    = var.config
  resources = var.resources
}
