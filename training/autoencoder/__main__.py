from training.autoencoder import main

main()
