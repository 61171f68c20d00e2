output "app_name" {
  description = "Name of the application."
  value       = juju_application.nova_compute_nvidia_vgpu.name
}

output "provides" {
  description = "Endpoints that the charm provides."
  value = {
    nova_vgpu = "nova-vgpu"
  }
}

output "requires" {
  description = "Endpoints that the charm requires."
  value = {
    juju_info = "juju-info"
  }
}
